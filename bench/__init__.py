"""`make bench`: what Upshot reaches on this machine, everything real, every delivery audited."""
