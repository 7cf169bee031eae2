"""Stores in SQLite and PostgreSQL. Only this package imports SQLAlchemy and Alembic."""
