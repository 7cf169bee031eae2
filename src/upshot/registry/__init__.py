"""Stage 1: mutations of the registry, new state and its events together in one transaction."""
