# Each process has the whole model; gradients are averaged while the backward pass goes on. It is what
# a launcher gets anyway; here through mmengine's strategies, as FSDP and DeepSpeed.
runner_type = "FlexibleRunner"
strategy = dict(
    type="DDPStrategy",
    model_wrapper=dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    ),
)
