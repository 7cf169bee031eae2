"""The REST API, health and metrics: HTTP on one side, the house's parts on the other."""
