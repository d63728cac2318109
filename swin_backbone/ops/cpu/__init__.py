"""What makes the operations fast in PyTorch's own kernels on a CPU."""
