"""The prototype of 3-D windows against torchvision's own class, on fresh numbers."""

import pytest
import torch
from helpers.errors import relative_error
from helpers.paths import ROOT

swin3d = pytest.importorskip(
    "torchvision.models.video.swin_transformer", reason="torchvision is not installed"
)


@pytest.fixture
def attend_in_volume(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from benchmarking.volume_windows import attend_in_volume

    return attend_in_volume


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 2, 2), (0, 1, 3)])
@pytest.mark.parametrize("size", [(4, 8, 8), (5, 9, 6), (3, 5, 11)])
def test_prototype_computes_what_torchvision_does(attend_in_volume, size, shift):
    """float64: 1e-12; torchvision hides pairs by -100, which leaves them 1e-40 of their weight."""
    module = swin3d.ShiftedWindowAttention3d(16, [2, 4, 4], list(shift), 2).double()
    torch.nn.init.normal_(module.relative_position_bias_table)
    x = torch.randn(2, *size, 16, dtype=torch.float64, requires_grad=True)
    results = []
    for run in (
        module,
        lambda x: module.proj(
            attend_in_volume(
                module.qkv(x), module.relative_position_bias_table, 2, (2, 4, 4), shift,
                module.qkv.bias,
            )
        ),
    ):  # fmt: skip
        out = run(x)
        wanted = [x, *module.parameters()]
        generator = torch.Generator().manual_seed(0)
        cotangent = torch.randn(out.shape, dtype=out.dtype, generator=generator)
        results.append([out, *torch.autograd.grad(out, wanted, cotangent)])
    for a, b in zip(*results, strict=True):
        assert relative_error(b, a) <= 1e-12
