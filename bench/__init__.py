"""`make bench`: measures Upshot on this machine with real processes, and audits every delivery."""
