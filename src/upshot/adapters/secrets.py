"""Sources of `secrets.NAME`: the environment, and directories of files. All are read at the moment of use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from typing_extensions import override

from upshot.errors import ConfigError
from upshot.ports.secrets import SecretSource

PREFIX = "UPSHOT_SECRET_"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks, which PowerShell writes
MAX_SECRET_BYTES = 64 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")  # names that a template can write after `secrets.`


def _check(value: str, place: str, remedy: str) -> str:
    """
    Return the value of a secret.

    Raises:
        ConfigError: It is empty, or begins with a byte order mark, which a receiver would get.
    """
    if not value.strip():
        raise ConfigError(f"{place}: the secret is empty; {remedy}")
    if value.startswith("\ufeff"):
        raise ConfigError(f"{place}: the secret begins with a byte order mark; save it as UTF-8 without BOM")
    return value


class EnvironmentSecrets(SecretSource):
    """Secrets from the environment: `UPSHOT_SECRET_GITHUB_TOKEN` is `secrets.GITHUB_TOKEN`."""

    @override
    def get(self, name: str) -> str | None:
        """
        Return the value of the variable, or None if it is not set.

        Raises:
            ConfigError: It is empty, or begins with a byte order mark.
        """
        value = os.environ.get(PREFIX + name) if _NAME.fullmatch(name) else None
        return None if value is None else _check(value, PREFIX + name, "set the variable to the secret, or remove it")

    @override
    def names(self) -> frozenset[str]:
        found = (variable.removeprefix(PREFIX) for variable in os.environ if variable.startswith(PREFIX))
        return frozenset(name for name in found if _NAME.fullmatch(name))


class DirectorySecrets(SecretSource):
    """Secrets from a directory with one file for each, as Docker and Kubernetes mount them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @override
    def get(self, name: str) -> str | None:
        """
        Return the text of the file of this name without its final line break, or None if there is no such file.

        Raises:
            ConfigError: The file cannot be read, is too large, is empty, is not UTF-8, or has a byte order mark.
        """
        if not _NAME.fullmatch(name):
            return None
        path = self._directory / name
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SECRET_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read: {error.strerror}; allow the user of the worker to read it"
            ) from error
        if len(content) > MAX_SECRET_BYTES:
            raise ConfigError(
                f"{path}: is larger than {MAX_SECRET_BYTES // 1024} KB, the limit for a secret; make the file smaller"
            )
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            kind = "is UTF-16 text" if content.startswith(_UTF_16) else "is not UTF-8 text"
            raise ConfigError(f"{path}: {kind}; save the secret as UTF-8 without BOM") from error
        return _check(text.removesuffix("\n").removesuffix("\r"), str(path), "write the secret into the file")

    @override
    def names(self) -> frozenset[str]:
        """Return the names of the files, or no names if the directory cannot be listed."""
        try:
            return frozenset(entry.name for entry in self._directory.iterdir() if _NAME.fullmatch(entry.name))
        except OSError:
            return frozenset()


class CombinedSecrets(SecretSource):
    """Several sources. The first source that has a secret returns its value."""

    def __init__(self, sources: Iterable[SecretSource]) -> None:
        self._sources = tuple(sources)

    @override
    def get(self, name: str) -> str | None:
        return next((value for source in self._sources if (value := source.get(name)) is not None), None)

    @override
    def names(self) -> frozenset[str]:
        return frozenset[str]().union(*(source.names() for source in self._sources))
