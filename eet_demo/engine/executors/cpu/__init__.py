"""The CPU executor: C++ in `kernels/cpu/`, compiled by this machine's compiler at first use."""
