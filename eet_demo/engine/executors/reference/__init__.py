"""The reference executor: NumPy, written to be read; the twin that every other executor is tested against."""
