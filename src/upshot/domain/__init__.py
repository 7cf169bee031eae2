"""Frozen records that all stages share. No I/O, and no logic of a stage."""
