"""Every backend that is held to the contract."""

from tests.contract.backends.docker import docker_provider
from tests.contract.backends.harness import Provider
from tests.contract.backends.kubernetes import kubernetes_provider
from tests.contract.backends.memory import MemoryProvider
from tests.contract.backends.process import GroupedProcessProvider, ProcessProvider

PROVIDERS: tuple[Provider, ...] = (
    docker_provider(),
    ProcessProvider(),
    GroupedProcessProvider(),
    MemoryProvider(),
    kubernetes_provider(),
)
