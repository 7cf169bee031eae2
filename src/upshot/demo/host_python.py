"""
This machine's own Python as the files of an image, for machines that reach no image registry.

    /usr/local/bin/python3          the interpreter that runs us, its virtual environment left aside
    /usr/local/lib/python3.…        the standard library, without its tests and what needs a screen
    where they are here             the shared libraries that those name, and the loader

So the image runs on kernels and processors like this machine's, and has no shell and no package
manager: a small one, made in a second or two.
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

from upshot.errors import Unavailable

PREFIX = PurePosixPath("/usr/local")
PYTHON = PREFIX / "bin/python3"

_LEFT_OUT = frozenset(
    {
        *("__pycache__", "dist-packages", "site-packages", "test", "tests"),
        *("ensurepip", "idlelib", "lib2to3", "pydoc_data", "tkinter", "turtledemo"),
    }
)
# They need a screen or a terminal, or are there to test Python itself.
_LEFT_OUT_MODULES = re.compile(r"(_tkinter|_curses|readline|nis|_test|_ctypes_test|_xx|xx)")
_LDD_PATH = re.compile(r"(?:=> |^\s*)(/\S+) \(0x")
# What the C library loads by name when it is asked to: name look-up, and the end of a thread.
_LOADED_BY_NAME = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1")


def is_portable() -> bool:
    """Whether its libraries can be found: on Linux, where `ldd` names them."""
    return sys.platform == "linux" and shutil.which("ldd") is not None


def interpreter() -> Path:
    """The program that runs us, behind all links of virtual environments and version managers."""
    return Path(sys.executable).resolve()


def python_files() -> dict[PurePosixPath, Path]:
    """
    All files that a Python in an image needs: by path there, path here.

    Raises:
        Unavailable: A shared library is not to be found here.
    """
    files = {PYTHON: interpreter(), **dict(_standard_library())}
    programs = [path for path in files.values() if path.suffix != ".py"]
    return files | {PurePosixPath(path): Path(path) for path in _libraries(programs)}


def python_environment(files: Iterable[PurePosixPath]) -> dict[str, str]:
    """With which variables that Python finds its library, and the loader the libraries."""
    folders = {str(path.parent) for path in files if PREFIX not in path.parents}
    return {
        "PATH": f"{PYTHON.parent}:/usr/bin:/bin",
        "PYTHONHOME": str(PREFIX),
        "PYTHONUNBUFFERED": "1",  # what a job says is in its log at once
        "LD_LIBRARY_PATH": ":".join(sorted(folders)),
    }


def _standard_library() -> Iterator[tuple[PurePosixPath, Path]]:
    here = Path(sysconfig.get_path("stdlib"))
    there = PREFIX / sys.platlibdir / here.name
    for folder, folders, names in os.walk(here):
        folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith("config-")]
        for name in names:
            path = Path(folder, name)
            is_wanted = name.endswith((".py", ".so")) and not _LEFT_OUT_MODULES.match(name)
            if is_wanted and path.is_file():
                yield there / path.relative_to(here), path


def _libraries(programs: Iterable[Path]) -> set[str]:
    """The libraries that these name, and those name in turn, where the loader finds them."""
    told = subprocess.run(  # a list of our own, and of files that this Python runs itself
        ["ldd", *map(str, programs)],  # noqa: S607 - wherever this machine has it
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},  # noqa: TID251 - handed down, in a language that is known
    )
    if missing := re.findall(r"^\s*(\S+) => not found", told.stdout, re.MULTILINE):
        raise Unavailable(f"this machine's Python needs {', '.join(sorted(set(missing)))}, which ldd does not find")
    found = {match[1] for line in told.stdout.splitlines() if (match := _LDD_PATH.search(line))}
    return found | set(_beside(found))


def _beside(libraries: Iterable[str]) -> Iterator[str]:
    for folder in {Path(path).parent for path in libraries}:
        for name in _LOADED_BY_NAME:
            if (folder / name).is_file():
                yield str(folder / name)
