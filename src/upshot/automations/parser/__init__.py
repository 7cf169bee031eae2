"""From YAML text to automations, with every error at its file and line."""
