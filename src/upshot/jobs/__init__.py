"""Container jobs: which jobs may start, how they are supervised, and how they change state."""
