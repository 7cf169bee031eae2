"""An error that ends Celery's part of a worker does not end the worker."""

import os
import signal

import pytest

from upshot.adapters import celery
from upshot.adapters.celery import make_app, run_worker


@pytest.fixture(autouse=True)
def _handlers():
    """Restore the handlers of signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_celery_is_started_again_until_a_stop_is_requested(monkeypatch):
    """The executor is started and stopped once."""
    calls = []

    def end(*_args, **_kwargs):
        calls.append("celery")
        if calls.count("celery") == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return 1

    monkeypatch.setattr(celery, "_run_celery", end)
    monkeypatch.setattr(celery, "_RESTART_SECONDS", 0.01)
    run_worker(
        make_app("redis://127.0.0.1:1/0", "ins_1"),
        name="test",
        queues=[],
        execute=lambda _ids: None,
        wake_jobs=lambda: None,
        on_start=lambda: calls.append("start"),
        on_stop=lambda: calls.append("stop"),
        on_shutdown_signal=lambda: calls.append("signal"),
    )
    assert calls == ["start", "celery", "celery", "celery", "signal", "stop"]
