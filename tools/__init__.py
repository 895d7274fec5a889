"""The workshop: what builds, checks and measures the product, and is not part of it."""
