"""What accelerated encoders do on a GPU under torch.compile: there, or in Triton's interpreter."""

import pytest
import torch
from helpers import compiled_steps as steps
from helpers.encoders_by_kernels import take_kernels
from helpers.errors import relative_error
from helpers.peers import PEERS, make_theirs
from helpers.triton_kernels import DEVICE  # skips where none can run

import swin_backbone

SIZES = {"embed_dims": 32, "depths": (2, 1), "num_heads": (1, 2), "window_size": 2}
IMAGE = 16
#: The interpreter multiplies no bfloat16.
LOW = torch.bfloat16 if DEVICE == "cuda" else torch.float16
CASES = [
    ("transformers", "v1", True),
    *(
        pytest.param(name, version, low, marks=pytest.mark.slow)
        for name in ("transformers", "timm", "torchvision", "mmseg")
        for version in PEERS[name].versions
        for low in (False, True)
        if (name, version, low) != ("transformers", "v1", True)
    ),
]
#: Kernels of norms around blocks: passes of their own in eager use, which the compiler fuses.
FUSED = {"norm_forward", "norm_backward", "sum_partials"}
#: What dynamo says of ours that it cannot know for sure.
pytestmark = pytest.mark.filterwarnings("error:Dynamo detected a call")


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    take_kernels(monkeypatch)


def differentiate(run, model, images, low):
    """Maps and gradients, float64, flat."""
    images = images.clone().requires_grad_()
    model.zero_grad()
    with torch.autocast(DEVICE, LOW, enabled=low):
        maps = run(images)
    generator = torch.Generator().manual_seed(1)
    sum((m * torch.randn(m.shape, generator=generator).to(m)).sum() for m in maps).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    found = torch.cat([m.detach().flatten().double() for m in maps]), torch.cat(gradients).double()
    return *found, images.grad.double()


@pytest.mark.parametrize(("name", "version", "low"), CASES)
def test_the_same_kernels_and_numbers(name, version, low):
    """Eager use casts at other places: under autocast within a few roundings of half precision."""
    model = make_theirs(name, version, image_size=IMAGE, **SIZES).to(DEVICE)
    swin_backbone.accelerate(model, pools=False, channels_last=False)
    images, found, kernels = torch.randn(1, 3, IMAGE, IMAGE, device=DEVICE), [], []

    def run(images):
        return PEERS[name].maps(model, images)

    call, graphs = steps.compiled(run)
    for one in (run, call):
        with steps.started_kernels() as started:
            found.append(differentiate(one, model, images, low))
        kernels.append({kernel: n for kernel, n in started.items() if kernel not in FUSED})
    assert kernels[0] == kernels[1] != {}
    assert graphs.frame_count == 1
    for eager, compiled in zip(*found, strict=True):
        assert eager.shape == compiled.shape
        assert relative_error(compiled, eager) <= (5e-3 if low else 1e-5)
