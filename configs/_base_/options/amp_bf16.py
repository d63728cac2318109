# Mixed precision in bfloat16, which needs no loss scaling.
optim_wrapper = dict(type="AmpOptimWrapper", dtype="bfloat16")
