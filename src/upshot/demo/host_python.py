"""
This machine's own Python as a base image, for machines that cannot reach an image registry.

    /usr/local/bin/python3          the interpreter that runs this program, without its virtual environment
    /usr/local/lib/python3.…        the standard library, without tests and modules that need a screen
    /usr/local/lib/packages         what the package `upshot` requires in a job
    their paths on this machine     the shared libraries that the interpreter needs, and the dynamic loader

The image runs on kernels and processors like this machine's. It has no shell and no package manager.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from upshot.demo.build_context import required_files, write_context
from upshot.errors import Unavailable

PREFIX = PurePosixPath("/usr/local")
PYTHON = PREFIX / "bin/python3"
PACKAGES = PREFIX / "lib/packages"  #: where the image imports packages from

_SKIPPED_DIRECTORIES = re.compile(
    r"__pycache__|(dist|site)-packages|tests?|ensurepip|idlelib|lib2to3|pydoc_data|tkinter|turtledemo|config-.*"
)
# Modules that need a screen or a terminal, or that test Python itself.
_SKIPPED_MODULES = re.compile(r"(_tkinter|_curses|readline|nis|_test|_ctypes_test|_xx|xx)")
_LDD_PATH = re.compile(r"(?:=> |^\s*)(/\S+) \(0x")
# The C library loads these by name, so ldd does not list them: for name resolution, and when a thread ends.
_LOADED_BY_NAME = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1")


def is_portable() -> bool:
    """Return whether the shared libraries of the interpreter can be found: on Linux, with `ldd`."""
    return sys.platform == "linux" and shutil.which("ldd") is not None


def interpreter() -> Path:
    """Return the program that runs this process, with all links of virtual environments resolved."""
    return Path(sys.executable).resolve()


def write_build_context(file: IO[bytes]) -> None:
    """
    Write a tar archive for `docker build -` that builds an image with this Python.

    Raises:
        Unavailable: A shared library cannot be found on this machine.
    """
    files = {PYTHON: interpreter(), **dict(_standard_library())}
    files |= {PACKAGES / path: source for path, source in required_files()}
    programs = [path for path in files.values() if path.suffix == ".so" or path == interpreter()]
    files |= {PurePosixPath(path): Path(path) for path in _shared_libraries(programs)}
    library_directories = sorted({str(path.parent) for path in files if PREFIX not in path.parents})
    dockerfile = f"""\
FROM scratch
COPY rootfs /
ENV PATH={PYTHON.parent}:/usr/bin:/bin PYTHONHOME={PREFIX} PYTHONPATH={PACKAGES} PYTHONUNBUFFERED=1 \\
    LD_LIBRARY_PATH={":".join(library_directories)}
"""
    rootfs = PurePosixPath("rootfs")
    in_rootfs = {rootfs / path.relative_to("/"): source for path, source in files.items()}
    write_context(file, dockerfile, in_rootfs, shared=[rootfs / "tmp"])


def _standard_library() -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield the files of the standard library: the path in the image, and the path on this machine."""
    root = Path(sysconfig.get_path("stdlib"))
    root_in_image = PREFIX / sys.platlibdir / root.name
    for directory, directories, names in os.walk(root):
        directories[:] = [name for name in directories if not _SKIPPED_DIRECTORIES.fullmatch(name)]
        for name in names:
            path = Path(directory, name)
            if name.endswith((".py", ".so")) and not _SKIPPED_MODULES.match(name) and path.is_file():
                yield root_in_image / path.relative_to(root), path


def _shared_libraries(programs: Iterable[Path]) -> set[str]:
    """Return the paths of the shared libraries that programs need directly or indirectly, and of the loader."""
    listed = subprocess.run(  # only files that this Python itself loads
        ["ldd", *map(str, programs)],  # noqa: S607 - wherever this machine has it
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},  # noqa: TID251 - passed on, with messages in English
    ).stdout
    if missing := re.findall(r"^\s*(\S+) => not found", listed, re.MULTILINE):
        raise Unavailable(f"ldd cannot find {', '.join(sorted(set(missing)))}, which this machine's Python needs")
    found = {match[1] for line in listed.splitlines() if (match := _LDD_PATH.search(line))}
    directories = {Path(path).parent for path in found}
    loaded_by_name = (directory / name for directory in directories for name in _LOADED_BY_NAME)
    return found | {str(path) for path in loaded_by_name if path.is_file()}
