"""Triton kernels. They run on GPUs, and in Triton's interpreter on the CPU to be tested."""
