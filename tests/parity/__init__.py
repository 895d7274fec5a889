"""The engine against transformers, and both sides as a race uses them."""
