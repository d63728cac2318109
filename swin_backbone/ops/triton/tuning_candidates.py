"""Launch parameters for cards other than those that they were measured on, by kernel."""

from .launch import Config

#: Small blocks, for cards with less memory: they take at most 99 KiB on one of compute capability
#: 8.6, compiled by Triton 3.6 for up to 256 channels, windows up to 16 x 16, and 16 or 32 bits; but
#: the backward pass of windows of more than 64 tokens in 32 bits takes 184 KiB.
CAUTIOUS: dict[str, Config] = {
    "norm_linear": Config(rows=32, columns=32, warps=2, stages=2),
    "linear": Config(rows=64, columns=64, depth=64, warps=4, stages=2),
    "linear_few_rows": Config(rows=64, columns=32, depth=64, warps=4, stages=2),
    "gelu_backward": Config(rows=64, columns=64, depth=32, warps=4, stages=2),
    "mlp_forward": Config(rows=32, columns=16, warps=2, stages=2),
    "mlp_backward": Config(rows=32, columns=16, warps=2, stages=2),
    "mlp_weight_gradients": Config(rows=32, columns=64, warps=4, stages=2, programs=264),
    "linear_norm_add": Config(rows=32, depth=32, warps=2, stages=2),
    "linear_norm_backward": Config(rows=32, columns=16, depth=32, warps=2, stages=2),
    "post_norm_mlp_forward": Config(rows=32, columns=16, warps=2, stages=2),
    "post_norm_mlp_backward": Config(rows=32, columns=16, warps=2, stages=2),
    "attention_forward": Config(warps=4, stages=2, programs=2112),
    "attention_backward": Config(warps=4, stages=2, programs=528),
    "rows_forward": Config(rows=64, warps=4, stages=1, programs=1056),
    "rows_backward": Config(rows=16, columns=16, depth=32, warps=4, stages=1, programs=1056),
    "streamed_forward": Config(warps=4, stages=1, programs=2112),
    "streamed_forward_small": Config(warps=2, stages=1, programs=2112),
    "streamed_backward": Config(warps=4, stages=1, programs=528),
    "streamed_backward_small": Config(warps=2, stages=1, programs=528),
}
#: What is tried besides what would be taken untried. Triton 3.6 reads illegal addresses on an H100
#: with one stage, and with fewer than 16 rows a warp (of weights' gradients: columns, which are the
#: rows of their product).
CANDIDATES: dict[str, tuple[Config, ...]] = {
    "norm_linear": (
        Config(rows=64, columns=64, warps=4, stages=2),
        Config(rows=128, columns=64, warps=8, stages=2),
    ),
    "linear": (
        Config(rows=128, columns=128, depth=64, warps=8, stages=3),
        Config(rows=128, columns=64, depth=64, warps=4, stages=3),
        Config(rows=64, columns=128, depth=64, warps=4, stages=3),
        Config(rows=128, columns=128, depth=32, warps=8, stages=3),
    ),
    "linear_few_rows": (
        Config(rows=64, columns=32, depth=128, warps=4, stages=3),
        Config(rows=64, columns=64, depth=64, warps=4, stages=3),
        Config(rows=128, columns=64, depth=64, warps=4, stages=3),
    ),
    "gelu_backward": (
        Config(rows=128, columns=64, depth=32, warps=8, stages=3),
        Config(rows=128, columns=64, depth=32, warps=4, stages=3),
        Config(rows=64, columns=64, depth=64, warps=4, stages=2),
    ),
    "mlp_forward": (
        Config(rows=64, columns=32, warps=4, stages=2),
        Config(rows=64, columns=32, warps=4, stages=3),
        Config(rows=128, columns=32, warps=8, stages=2),
    ),
    "mlp_backward": (
        Config(rows=64, columns=32, warps=4, stages=2),
        Config(rows=64, columns=32, warps=4, stages=3, registers=168),
        Config(rows=128, columns=32, warps=8, stages=2),
    ),
    "mlp_weight_gradients": (
        Config(rows=64, columns=64, warps=4, stages=3, programs=264),
        Config(rows=64, columns=64, warps=4, stages=2, programs=264),
        Config(rows=32, columns=128, warps=8, stages=3, programs=132),
    ),
    "linear_norm_add": (
        Config(rows=64, depth=64, warps=4, stages=2),
        Config(rows=64, depth=32, warps=4, stages=3),
        Config(rows=128, depth=64, warps=8, stages=2),
    ),
    "linear_norm_backward": (
        Config(rows=64, columns=32, depth=32, warps=4, stages=2),
        Config(rows=64, columns=64, depth=64, warps=4, stages=2),
    ),
    "post_norm_mlp_forward": (
        Config(rows=64, columns=32, warps=4, stages=2),
        Config(rows=64, columns=32, warps=4, stages=3),
        Config(rows=128, columns=32, warps=8, stages=2),
    ),
    "post_norm_mlp_backward": (
        Config(rows=64, columns=32, warps=4, stages=2),
        Config(rows=64, columns=32, warps=4, stages=3, registers=168),
        Config(rows=128, columns=32, warps=8, stages=2),
    ),
    "attention_forward": (Config(warps=4, stages=2, registers=128, programs=1056),),
    "attention_backward": (Config(warps=4, stages=2, programs=1056),),
    "rows_forward": (
        Config(rows=64, warps=4, stages=2, registers=168, programs=2112),
        Config(rows=32, warps=2, stages=2, programs=2112),
    ),
    "rows_backward": (
        Config(rows=16, columns=32, depth=64, warps=4, stages=2, programs=1056),
        Config(rows=16, columns=16, depth=32, warps=4, stages=2, programs=2112),
        Config(rows=16, columns=32, depth=32, warps=4, stages=2, registers=168, programs=2112),
    ),
    "streamed_forward": (Config(warps=4, stages=2, programs=4224),),
    "streamed_forward_small": (Config(warps=4, stages=3, programs=4224),),
    "streamed_backward": (
        Config(warps=4, stages=2, programs=264),
        Config(warps=4, stages=2, programs=1056),
    ),
    "streamed_backward_small": (Config(warps=4, stages=2, programs=1056),),
}
