"""The web process: the REST API, health and metrics."""
