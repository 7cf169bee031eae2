"""Every backend that is held to the contract."""

from tests.contract.backends.bench import Provider
from tests.contract.backends.docker import DockerProvider
from tests.contract.backends.memory import MemoryProvider
from tests.contract.backends.process import GroupedProcessProvider, ProcessProvider

PROVIDERS: tuple[Provider, ...] = (DockerProvider(), ProcessProvider(), GroupedProcessProvider(), MemoryProvider())
