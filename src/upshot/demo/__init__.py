"""The scenario that `upshot demo` plays."""
