"""Compile gates: every kernel instance for every architecture, without a GPU."""
