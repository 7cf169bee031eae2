"""Records as rows and as JSON."""
