# As fsdp2_bf16.py, with each backbone gathered as one and replayed as CUDA graphs, of sizes that come again:
# the host has less to do in a step, and a process holds a copy of the backbone's parameters in bfloat16.
_base_ = ["fsdp2_bf16.py", "backbone_graphs.py"]
strategy = dict(unit_mb=None)
