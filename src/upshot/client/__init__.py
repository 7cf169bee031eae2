"""The client side of a running Upshot: where it listens, and an HTTP client for its REST API."""
