"""The machine: its processor, memory and GPU, and what can run on it."""
