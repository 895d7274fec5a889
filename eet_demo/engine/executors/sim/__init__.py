"""The simulator: the CUDA executor with another launcher, each thread a fiber on the CPU."""
