"""Stage 3: YAML to automations, events to matches, templates to plain data."""
