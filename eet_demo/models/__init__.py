"""Models: the catalogue, where each comes from, and how it becomes a folder on this machine."""
