# Mixed precision in bfloat16, whose range needs no loss scaling.
optim_wrapper = dict(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=dict(enabled=False))
