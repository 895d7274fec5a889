"""A process for each side, and both ends of the pipe between it and the race."""
