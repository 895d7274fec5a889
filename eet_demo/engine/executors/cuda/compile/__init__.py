"""From CUDA sources to loaded kernels: NVRTC, cubins, the driver."""
