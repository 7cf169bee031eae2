"""Measure what logging metrics with the SDK costs a training program: its time and its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from bench.system import BenchSystem
from tests.system import TOKEN


@dataclass(frozen=True, slots=True)
class Logging:
    """The results."""

    calls: int  #: of `run.log`, one after the other
    median_us: float  #: of a call
    p99_us: float
    loop_seconds: float
    finish_seconds: float  #: how long the end of the run waits
    lost: int  #: rows that the server does not have afterwards
    seconds: int  #: of a training that logs 50 metrics a second
    grown_mb: float  #: resident memory at its end, less that after a tenth of it
    memory_mb: float


def measure_logging(system: BenchSystem, *, calls: int, seconds: int) -> Logging:
    """Measure a system whose web process runs."""
    settings = {
        "UPSHOT_URL": system.url,
        "UPSHOT_TOKEN": TOKEN,
        "UPSHOT_DIR": str(system.folder / "runs"),
        "HOME": str(system.folder),
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.logging_client", str(calls), str(seconds)],
        env=system.environment | settings,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    results = json.loads(done.stdout)
    return Logging(**results["loop"], **results["memory"])
