"""
A worker process: Celery in the main thread (`process`), and our event loop in a thread beside it (`loop`).

    Celery task (ids) ─┐
    sweeper ───────────┴─► Executor.execute ─► claim ─┐
    stream ─► Consumer ──► Executor.start ────────────┴─► render ─► act ─► record

The event loop continues while the broker is down. Celery and the consumer reconnect independently.
"""
