"""Launchers of the kernels in `kernels/cuda/`: one interface, CuPy on a GPU behind it or the simulator on the CPU."""
