"""A Celery worker as ours whose tasks take a second; run as `python slow_worker.py REDIS_URL`."""

from __future__ import annotations

import sys
import time

from upshot.adapters.celery import QUEUE, make_app, run_worker


def run(execution_ids: list[str]) -> None:
    """Be busy with a task, and so hold its message."""
    print("busy", *execution_ids, flush=True)
    time.sleep(1)


def say(word: str) -> None:
    """Print at once."""
    print(word, flush=True)


if __name__ == "__main__":
    code = run_worker(
        make_app(sys.argv[1]),
        name="slow",
        queues=[QUEUE],
        run=run,
        launch=lambda: say("launch"),
        start=lambda: say("started"),
        stop=lambda: say("stopped"),
        shutting_down=lambda: say("stopping"),
    )
    sys.exit(code)
