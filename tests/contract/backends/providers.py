"""Every backend that is held to the contract."""

from tests.contract.backends.bench import Provider
from tests.contract.backends.docker import DockerProvider

PROVIDERS: tuple[Provider, ...] = (DockerProvider(),)
