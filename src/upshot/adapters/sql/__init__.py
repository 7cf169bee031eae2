"""SQLite and PostgreSQL through SQLAlchemy; the only place that imports it."""
