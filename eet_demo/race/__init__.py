"""A race: who may load when, both sides in their turn, and what becomes of it."""
