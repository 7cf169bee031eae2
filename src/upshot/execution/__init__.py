"""Stage 4: carries out executions. Claims a lease, renders, acts, stores a receipt and decides the next state."""
