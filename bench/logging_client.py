"""
Log metrics with the SDK, as a training loop does, and print what it took as JSON.

Run as `python -m bench.logging_client CALLS SECONDS`: so many calls of `run.log` in a loop, then the metrics of so many
seconds of a training that logs 50 metrics a second.
"""

from __future__ import annotations

import json
import sys
import time

import psutil

import upshot
from bench.artifact_client import PROJECT

_METRICS = 50
_WARM_SHARE = 10  # memory is compared with what it was after a tenth of the time


def log_in_a_loop(calls: int) -> dict[str, float]:
    """Measure each call, and count the rows that the server does not have."""
    took = [0] * calls
    clock = time.perf_counter_ns
    with upshot.init(project=PROJECT) as run:
        started = time.monotonic()
        for number in range(calls):
            before = clock()
            run.log({"loss": 1 / (number + 1), "accuracy": number / calls})
            took[number] = clock() - before
        loop_seconds = time.monotonic() - started
        ended = time.monotonic()
    finish_seconds = time.monotonic() - ended
    rows = upshot.Api().run(f"{PROJECT}/{run.id}").scan_history(page_size=10_000)
    found = {row["_step"] for row in rows if row["loss"] == 1 / (row["_step"] + 1)}
    took.sort()
    return {
        "calls": calls,
        "median_us": took[calls // 2] / 1000,
        "p99_us": took[calls * 99 // 100] / 1000,
        "loop_seconds": loop_seconds,
        "finish_seconds": finish_seconds,
        "lost": len(set(range(calls)) - found),
    }


def log_for(seconds: int) -> dict[str, float]:
    """Log the metrics of so many seconds, a hundred times as fast, and return by how much memory grew."""
    process = psutil.Process()
    warm = 0
    names = [f"metric-{number}" for number in range(_METRICS)]
    with upshot.init(project=PROJECT) as run:
        for second in range(seconds):
            run.log(dict.fromkeys(names, second / 7))
            time.sleep(0.01)
            if second == seconds // _WARM_SHARE:
                warm = process.memory_info().rss
        grown = process.memory_info().rss - warm
    return {"seconds": seconds, "grown_mb": grown / 1e6, "memory_mb": (warm + grown) / 1e6}


if __name__ == "__main__":
    print(json.dumps({"loop": log_in_a_loop(int(sys.argv[1])), "memory": log_for(int(sys.argv[2]))}))
