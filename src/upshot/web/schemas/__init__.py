"""JSON shapes of requests and responses, by resource."""
