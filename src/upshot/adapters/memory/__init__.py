"""Stores in memory, for tests and `upshot.testing`. They pass the same contract suites as the stores in SQL."""
