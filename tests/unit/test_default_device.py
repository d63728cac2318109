"""Models compute where their weights are, whatever the default device is by then."""

import pytest
import torch

from swin_backbone import SwinBackbone

SMALL = {"embed_dims": 16, "depths": (2, 2), "num_heads": (1, 2), "strides": (4, 2)}
SMALL |= {"out_indices": (0, 1), "window_size": 4, "drop_path_rate": 0.3, "drop_rate": 0.2}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"mask_padding": True}, {"packed": True}, {"with_cp": True}, {"backend": "sdpa"},
     {"backend": "reference"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("images", [0, 1, 2])
def test_under_another_default_device(version, options, training, images):
    """On the meta device there are no numbers, and whatever is made there by mistake is seen."""
    model = SwinBackbone(version=version, **SMALL, **options).train(training)
    x = torch.randn(images, 3, 50, 44)
    x.valid_sizes = torch.tensor([(50, 44), (30, 9)])[:images]
    results = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            torch.manual_seed(0)
            model.zero_grad()
            maps = model(x)
            sum(m.square().mean() if images else m.sum() for m in maps).backward()
        results.append([*maps, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > len(maps)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
