"""The files that `docker build -` reads: a tar archive with a Dockerfile and what it copies."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import IO

import upshot

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_WHEEL = "Wheel-Version: 1.0\nGenerator: upshot\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_PACKAGE = Path(upshot.__file__).parent


def write_context(
    file: IO[bytes], dockerfile: str, files: Mapping[PurePosixPath, Path | bytes], shared: Iterable[PurePosixPath] = ()
) -> None:
    """
    Write the archive. An archive of the same files is the same, so that Docker knows what it has built from them.

    Args:
        file: Where to.
        dockerfile: Text of the Dockerfile.
        files: By path in the archive: the content, or the file that has it.
        shared: Directories that every user can write to.
    """
    with tarfile.open(fileobj=file, mode="w") as tar:
        for directory in shared:
            entry = tarfile.TarInfo(str(directory))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
        for path, source in {PurePosixPath("Dockerfile"): dockerfile.encode(), **dict(sorted(files.items()))}.items():
            entry = tarfile.TarInfo(str(path))
            entry.mode = 0o755
            entry.size = len(source) if isinstance(source, bytes) else source.stat().st_size
            with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as content:
                tar.addfile(entry, content)


def package_files() -> dict[PurePosixPath, Path]:
    """Return the files of the package `upshot`, by their paths below the directory that it is imported from."""
    found = (path for path in _PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {PurePosixPath(path.relative_to(_PACKAGE.parent)): path for path in found}


def package_wheel() -> tuple[str, bytes]:
    """Return a wheel of the installed package `upshot`: its name, and its content."""
    metadata = distribution("upshot").read_text("METADATA") or ""
    name = f"upshot-{upshot.__version__}"
    files = {str(path): source.read_bytes() for path, source in sorted(package_files().items())}
    files |= {f"{name}.dist-info/METADATA": metadata.encode(), f"{name}.dist-info/WHEEL": _WHEEL.encode()}
    record = f"{name}.dist-info/RECORD"
    files[record] = "".join(f"{path},,\n" for path in (*files, record)).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(zipfile.ZipInfo(path), text)
    return f"{name}-py3-none-any.whl", content.getvalue()


def required_files() -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield the files of `required_distributions`: the path in a directory of packages, and the path here."""
    for each in required_distributions():
        for file in each.files or ():
            source = Path(str(each.locate_file(file)))
            if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
                yield PurePosixPath(file), source


def required_distributions() -> Iterator[Distribution]:
    """Yield what the package `upshot` requires in a job, directly or not, as far as it is installed here."""
    seen = {"upshot"}
    rest = [distribution("upshot")]
    while rest:
        for requirement in rest.pop().requires or ():
            match = _NAME.match(requirement)
            name = match[0].lower().replace("_", "-") if match else ""
            if not name or name in seen or "extra ==" in requirement:
                continue
            seen.add(name)
            with suppress(PackageNotFoundError):  # needed on other systems or older versions of Python only
                found = distribution(name)
                rest.append(found)
                yield found
