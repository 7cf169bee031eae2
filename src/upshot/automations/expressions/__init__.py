"""What templates can do with values: filters, tests, operators, and the bounds of what they may use."""
