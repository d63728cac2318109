# A Swin and UPerNet small enough to train on a CPU core in two minutes.
_base_ = [
    "../_base_/models/upernet_swin_demo.py",
    "../_base_/datasets/demo.py",
    "../_base_/schedules/schedule_demo.py",
]
