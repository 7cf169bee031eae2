"""
A worker process: Celery in the main thread (`process`), the engine's loop in a thread beside it (`loop`).

    Celery task (ids) ──┐
    sweeper ────────────┼──► Engine.run ──► claim ─┐
    stream ► Consumer ──┴──► Engine.begin ─────────┴──► render ► act ► record

The loop goes on when the broker is away: Celery reconnects in its own time, the consumer in its.
"""
