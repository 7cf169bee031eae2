"""What people write in YAML: automation files, the inputs of actions, the operator's file about jobs."""
