"""The CPU engine's C++, op by op."""
