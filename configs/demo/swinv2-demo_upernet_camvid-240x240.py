# The demo's small model on CamVid as Swin V2, with a shifted block in every stage.
_base_ = ["swin-demo_upernet_camvid-240x240.py"]
model = dict(backbone=dict(version="v2", depths=(2, 2, 2, 2), window_size=8))
