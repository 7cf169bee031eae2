"""`upshot up`: run everything on one machine, as one foreground command."""
