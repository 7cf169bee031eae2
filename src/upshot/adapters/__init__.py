"""Implementations of the ports. Each library is imported by the adapters of one kind only."""
