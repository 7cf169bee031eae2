"""
Upload or download an artifact with the SDK, as a program of a user does, and print what it took as JSON.

Run as `python -m bench.artifact_client upload NAME PATH` or `download NAME DIRECTORY`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import upshot

PROJECT = "bench"


def upload(name: str, path: Path) -> None:
    """Log a file or the content of a directory."""
    artifact = upshot.Artifact(name, "dataset")
    if path.is_dir():
        artifact.add_dir(path)
    else:
        artifact.add_file(path)
    with upshot.init(project=PROJECT) as run:
        run.log_artifact(artifact).wait()


def download(name: str, directory: Path) -> None:
    """Download the newest version into an empty directory."""
    upshot.Api().artifact(f"{PROJECT}/{name}:latest").download(root=directory)


def peak_memory_mb() -> float:
    """Return the highest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    work = {"upload": upload, "download": download}[sys.argv[1]]
    started = time.monotonic()
    work(sys.argv[2], Path(sys.argv[3]))
    print(json.dumps({"seconds": time.monotonic() - started, "memory_mb": peak_memory_mb()}))
