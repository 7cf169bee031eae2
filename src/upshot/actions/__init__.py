"""Stage 5: what a step does to the outside world, a file for each action."""
