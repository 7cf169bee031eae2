"""Records as rows and JSON."""
