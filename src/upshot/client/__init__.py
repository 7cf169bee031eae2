"""The HTTP client of the REST API, for the command line, the demo and training scripts."""
