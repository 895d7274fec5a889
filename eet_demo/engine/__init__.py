"""The engine: a model compiled once into a short program over planned buffers, run by one of four executors."""
