"""`upshot demo`: plays a scenario with real processes and jobs, and reports and checks what happened."""
