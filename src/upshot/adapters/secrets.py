"""Where `secrets.NAME` comes from: the environment, and a folder of files; read at the moment of use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from upshot.errors import ConfigError
from upshot.ports.secrets import SecretSource

PREFIX = "UPSHOT_SECRET_"
MAX_SECRET_BYTES = 64 * 1024  #: a larger file is no secret but a mistake
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")  # what a template can write after `secrets.`


class EnvironmentSecrets:
    """Secrets from the environment: `UPSHOT_SECRET_GITHUB_TOKEN` is `secrets.GITHUB_TOKEN`."""

    def get(self, name: str) -> str | None:
        """The value; None when the variable is not set."""
        return os.environ.get(PREFIX + name) if _NAME.fullmatch(name) else None

    def names(self) -> frozenset[str]:
        """The names that are set."""
        found = (variable.removeprefix(PREFIX) for variable in os.environ if variable.startswith(PREFIX))
        return frozenset(name for name in found if _NAME.fullmatch(name))


class FolderSecrets:
    """Secrets from a folder with one file each, as Docker and Kubernetes mount them; the file's name is its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> str | None:
        """
        The file's text without its final line break; None when there is no such file.

        Raises:
            ConfigError: The file is there and cannot be used.
        """
        if not _NAME.fullmatch(name):
            return None
        path = self._folder / name
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SECRET_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}; let the worker's user read it") from error
        if len(content) > MAX_SECRET_BYTES:
            raise ConfigError(f"{path}: is larger than {MAX_SECRET_BYTES // 1024} KB, which no secret is")
        try:
            return content.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not text in UTF-8; a secret must be") from error

    def names(self) -> frozenset[str]:
        """The names of the files; empty when the folder cannot be listed."""
        try:
            return frozenset(entry.name for entry in self._folder.iterdir() if _NAME.fullmatch(entry.name))
        except OSError:
            return frozenset()


class CombinedSecrets:
    """Several sources, asked in order; the first that knows a name gives its value."""

    def __init__(self, sources: Iterable[SecretSource]) -> None:
        self._sources = tuple(sources)

    def get(self, name: str) -> str | None:
        """The value; None when no source knows the name."""
        return next((value for source in self._sources if (value := source.get(name)) is not None), None)

    def names(self) -> frozenset[str]:
        """All names that are known."""
        return frozenset[str]().union(*(source.names() for source in self._sources))
