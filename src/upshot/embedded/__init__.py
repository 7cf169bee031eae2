"""Everything on one machine as one foreground command: `upshot up`."""
