"""The kernels as operators of torch: launch, autograd, shapes without data. Needs triton."""
