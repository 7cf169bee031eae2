"""The ports in memory: real implementations for tests and for `upshot.testing`, held to the same contracts."""
