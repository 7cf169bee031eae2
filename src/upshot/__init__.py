"""Upshot: when a model changes in the registry, make the rest happen."""

__version__ = "0.1.0"
