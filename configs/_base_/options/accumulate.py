# One step of the optimizer for every 4 batches. Save checkpoints at multiples of 4.
optim_wrapper = dict(accumulative_counts=4)
