"""Every backend that the contract suite runs on."""

from tests.contract.backends.docker import docker_provider
from tests.contract.backends.harness import Provider
from tests.contract.backends.kubernetes import kubernetes_provider
from tests.contract.backends.memory import MemoryProvider
from tests.contract.backends.process import CgroupProcessProvider, ProcessProvider

PROVIDERS: tuple[Provider, ...] = (
    docker_provider(),
    ProcessProvider(),
    CgroupProcessProvider(),
    MemoryProvider(),
    kubernetes_provider(),
)
