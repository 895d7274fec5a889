"""The launchers: one module for each kernel of kernels/cuda, under the same name."""
