"""Stage 4: executions, from a claim over render, act and receipt to the decision what comes next."""
