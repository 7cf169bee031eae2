"""Settings to object graphs: the only files that see everything; a process imports its own and no more."""
