"""torch.compile takes the kernels that eager use takes, keeps no more, and knows all sizes."""

import pytest
import torch
from helpers.compiled_steps import (
    compiled,
    kept_bytes,
    operators_of_step,
    peak_bytes,
    started_kernels,
)
from helpers.triton_kernels import (  # skips first where no kernel can run
    DEVICE,
    HAS_GPU,
    let_kernels_run,
)

from swin_backbone import SwinBackbone

SMALL = {"embed_dims": 32, "depths": (1, 1), "num_heads": (1, 2), "strides": (4, 2)}
KINDS = {
    "v1": {},
    "v1, masked": {"mask_padding": True},
    "v1, absolute positions": {"use_abs_pos_embed": True},
    "v1, frozen": {"frozen_stages": 1},
    "v2": {"version": "v2"},
}


def backbone(**options):
    options = {**SMALL, "out_indices": (0, 1), "window_size": 4, "backend": "triton", **options}
    return SwinBackbone(**options).train().to(DEVICE)


def images(model, size, batch=2):
    x = torch.randn(batch, 3, *size, device=DEVICE)
    sizes = torch.tensor([size, (size[0] // 2, size[1])]) if model.mask_padding else None
    return x, sizes


def step(call, model, x, sizes):
    """The maps, and the gradients of what is trained."""
    maps = call(x, sizes)
    learned = [p for p in model.parameters() if p.requires_grad]
    return maps, torch.autograd.grad(sum(m.float().sin().sum() for m in maps), learned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_memory_and_graphs(kind, dtype, monkeypatch):
    """Each size starts what an eager step starts; two graphs serve all of them, whether maps are
    kept as they are or in the dtype of autocast."""
    let_kernels_run(monkeypatch)
    model = backbone(drop_path_rate=0.2, **KINDS[kind])
    call, graphs = compiled(model)
    for size, count in [((64, 64), 1), ((48, 80), 2), ((72, 36), 2), ((61, 95), 2)]:
        x, sizes = images(model, size)
        found = []
        for run in (model, call):
            with (
                started_kernels(run=False) as kernels,
                kept_bytes(model.parameters()) as kept,
                torch.autocast(DEVICE, dtype, enabled=dtype != x.dtype),
            ):
                step(run, model, x, sizes)
            found.append((kernels, sum(kept.values())))
        (eager_kernels, eager_bytes), (kernels, held) = found
        assert kernels == eager_kernels
        assert eager_kernels
        assert held <= 1.01 * eager_bytes  # what is small may lie alone instead of side by side
        assert graphs.frame_count == count


@pytest.mark.skipif(HAS_GPU, reason="counts the memory of the CPU")
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_memory_at_its_highest(kind, monkeypatch):
    """At no time more than in eager use: of inference, of a forward pass that keeps, of a step. The
    last stage's tokens are so wide that its queries, keys and values are views of a product."""
    let_kernels_run(monkeypatch)
    options = {"embed_dims": 96, "depths": (2, 1, 2), "num_heads": (3, 6, 12), "strides": (4, 2, 2)}
    model = backbone(**options, out_indices=(0, 1, 2), drop_path_rate=0.0, **KINDS[kind])
    call, _ = compiled(model)
    x, sizes = images(model, (192, 192))

    def forward(function, learns):
        with started_kernels(run=False), torch.set_grad_enabled(learns):
            return function(x, sizes)

    def whole(function, learns):
        maps = forward(function, learns)
        with started_kernels(run=False):
            torch.autograd.grad(maps, list(model.parameters()), [m.detach() for m in maps])

    # A stage's backward pass is one operator, whose blocks all give back what they kept at its end.
    for run, learns, most in [(forward, False, 1.01), (forward, True, 1.01), (whole, True, 1.05)]:
        run(call, learns)  # compiles
        eager, ours = (peak_bytes(lambda f=f: run(f, learns)) for f in (model, call))  # noqa: B023
        assert ours <= most * eager


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_maps_and_gradients(kind, monkeypatch):
    let_kernels_run(monkeypatch)
    model = backbone(drop_path_rate=0.0, **KINDS[kind])
    call, _ = compiled(model)
    x, sizes = images(model, (20, 28), batch=1)
    (maps, grads), (right, right_grads) = (step(run, model, x, sizes) for run in (call, model))
    for ours, eager in zip([*maps, *grads], [*right, *right_grads], strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in (*maps, *right))


def test_gradients_of_a_map_meet_in_a_kernel(monkeypatch):
    """A stage's map goes into its norm and into merging: no pass adds what comes back."""
    let_kernels_run(monkeypatch)
    model = backbone(drop_path_rate=0.0)
    with started_kernels(run=False):
        _, backward = operators_of_step(
            model, lambda call: step(call, model, *images(model, (32, 32)))
        )
    assert sum("norm_beside_backward" in name for name in backward) == 1
    assert not [name for name in backward if name.startswith("aten.add")]


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_a_stage_is_one_step(qkv_bias, monkeypatch):
    """However many blocks: each costs a compiler a second, forward and backward."""
    let_kernels_run(monkeypatch)
    model = backbone(depths=(3, 2), drop_path_rate=0.2, qkv_bias=qkv_bias)
    with started_kernels(run=False):
        forward, backward = operators_of_step(
            model, lambda call: step(call, model, *images(model, (32, 32)))
        )
    for names, name in [(forward, "residual_blocks."), (backward, "residual_blocks_backward.")]:
        assert sum(name in operator for operator in names) == 2
    assert not [name for name in forward if "residual_attention" in name or "residual_mlp" in name]
    made = [name for name in forward + backward if "getitem" not in name]
    assert len(made) <= 30


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_drop_path_drops_what_eager_use_drops(qkv_bias, monkeypatch):
    let_kernels_run(monkeypatch)
    model = backbone(depths=(2, 2), drop_path_rate=0.6, qkv_bias=qkv_bias)
    call, _ = compiled(model)
    x, sizes = images(model, (20, 28), batch=3)
    found = []
    for run in (call, model):
        torch.manual_seed(5)
        maps, grads = step(run, model, x, sizes)
        found.append([*maps, *grads])
    for ours, eager in zip(*found, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)


def test_what_is_changed_afterwards_is_seen(monkeypatch):
    """A graph is made anew for another layer, other settings, and evaluation."""
    let_kernels_run(monkeypatch)
    model = backbone(drop_path_rate=0.0)
    call, graphs = compiled(model)
    x, _ = images(model, (16, 16), batch=1)
    block = model.stages[0].blocks[0]

    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    def change_layer():
        layer = block.mlp.fc2
        block.mlp.fc2 = Doubled(layer.in_features, layer.out_features).to(DEVICE)

    def change_eps():
        block.norm1.eps = 0.5

    for change in (lambda: None, change_eps, model.eval, change_layer):
        before = graphs.frame_count
        change()
        for ours, eager in zip(call(x), model(x), strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)
        assert graphs.frame_count > before
