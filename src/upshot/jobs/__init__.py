"""Stage 6: container jobs: which may start, where, and what became of them."""
