"""`gpucheck`: everything this project has to say about a GPU, on a host that has one and little else.

Needs what the engine needs (numpy, torch, transformers, cupy, psutil) and typer and rich; no network, no installs.
"""
