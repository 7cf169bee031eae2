"""Our Celery worker, with tasks that take a second. Run it as `python slow_worker.py REDIS_URL`."""

from __future__ import annotations

import sys
import time

from upshot.adapters.celery import execute_queue, make_app, run_worker
from upshot.ids import ExecutionId


def execute(execution_ids: list[ExecutionId]) -> None:
    """Take a second, and hold the message of the task meanwhile."""
    print("busy", *execution_ids, flush=True)
    time.sleep(1)


def report(event: str) -> None:
    """Print and flush."""
    print(event, flush=True)


if __name__ == "__main__":
    code = run_worker(
        make_app(sys.argv[1], "ins_1"),
        name="slow",
        queues=[execute_queue("ins_1")],
        execute=execute,
        wake_jobs=lambda: report("jobs"),
        on_start=lambda: report("started"),
        on_stop=lambda: report("stopped"),
        on_shutdown_signal=lambda: report("stopping"),
    )
    sys.exit(code)
