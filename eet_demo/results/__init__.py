"""What a race leaves: the trace, and every figure computed from it."""
