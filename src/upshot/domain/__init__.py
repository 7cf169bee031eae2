"""The frozen vocabulary that all stages share; no I/O, no stage's logic."""
