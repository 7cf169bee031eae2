"""
JSON shapes of resources, one file per resource.

An event's data, the REST API, `/upshot/event.json`, templates and `--json` use these shapes. Each file declares
the shape as a TypedDict and has the function that makes it from the domain record. Times are RFC 3339 in UTC with
microseconds; a field that does not apply is null. Kinds and states are plain strings here, not enumerations, so
that a client that was generated from an older OpenAPI document can read newer values.
"""
