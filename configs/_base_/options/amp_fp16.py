# Mixed precision in float16, with dynamic loss scaling.
optim_wrapper = dict(type="AmpOptimWrapper", dtype="float16", loss_scale="dynamic")
