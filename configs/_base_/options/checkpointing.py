# Recompute the backbone's blocks in the backward pass instead of storing what they computed.
model = dict(backbone=dict(with_cp=True))
