# Parameters, gradients and optimizer states are spread over the processes by PyTorch's fully_shard, Swin
# blocks in units that are gathered while the one before computes. Checkpoints are those of one process.
runner_type = "FlexibleRunner"
strategy = dict(type="FullyShardStrategy")
