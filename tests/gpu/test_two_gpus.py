"""A model whose stages lie on two GPUs."""

import pytest
import torch

from swin_backbone import SwinBackbone


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_stages_may_lie_on_two_devices():
    model = SwinBackbone(embed_dims=32, depths=(1, 1), num_heads=(1, 2), strides=(4, 2),
                         out_indices=(0, 1), window_size=4).eval()  # fmt: skip
    images = torch.randn(2, 3, 40, 40, device="cuda:0")

    def run(model):
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            return [features.cpu() for features in model(images)]

    expected = run(model.to("cuda:0"))
    model.stages[1].to("cuda:1")
    model.norm1.to("cuda:1")
    model.stages[1].register_forward_pre_hook(
        lambda module, inputs: (inputs[0].to("cuda:1"), *inputs[1:])
    )
    for a, b in zip(run(model), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.1)  # other ways: a hook is in the way
