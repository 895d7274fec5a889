"""The executor itself: its arena, and how ops become launches."""
