"""Stage 1: mutations of the registry. Each writes the new state and its events in one transaction."""
