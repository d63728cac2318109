"""The backbone: sizes, options, training behaviour and argument errors."""

import math

import pytest
import torch
from mmengine.registry import MODELS

from swin_backbone import SwinBackbone
from swin_backbone.ops import BACKENDS

# The Triton kernels have tests of their own: they need a GPU, or small shapes in an interpreter.
PORTABLE_BACKENDS = [name for name in BACKENDS if name != "triton"]
SMALL = {"embed_dims": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 3, 4)}
TINY_TWO_STAGES = {"embed_dims": 8, "depths": (1, 2), "num_heads": (1, 2), "out_indices": (0, 1)}


def make(**options):
    model = SwinBackbone(**{**SMALL, **options})
    model.init_weights()
    return model


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (4, 4), (31, 64), (57, 33), (64, 96)])
@pytest.mark.parametrize("window_size", [7, (3, 5), 12])
def test_maps_have_ceiling_sizes_for_any_image(size, window_size):
    maps = make(window_size=window_size)(torch.randn(2, 3, *size))
    for stage, features in enumerate(maps):
        stride = 4 * 2**stage
        expected = (2, 12 * 2**stage, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        assert features.shape == expected
        assert features.isfinite().all()


@pytest.mark.parametrize(
    ("arch", "parameters"),
    [("tiny", 27.5e6), ("small", 48.8e6), ("base", 86.7e6), ("large", 194.9e6)],
)
def test_arch_sets_the_published_sizes(arch, parameters):
    """Published: 28M, 50M, 88M, 197M with a classifier; these are the backbones alone."""
    with torch.device("meta"):
        model = SwinBackbone(arch=arch)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.005)


def test_window_size_may_differ_by_axis():
    """A window of (M_h, M_w) on an image is (M_w, M_h) on the transposed image."""
    model, transposed = (
        SwinBackbone(**TINY_TWO_STAGES, window_size=window).double().eval()
        for window in [(3, 5), (5, 3)]
    )
    model.init_weights()
    state = model.state_dict()
    for key, tensor in state.items():
        if key.endswith("relative_position_bias_table"):
            state[key] = tensor.view(5, 9, -1).transpose(0, 1).flatten(0, 1)
        elif key.endswith("projection.weight"):
            state[key] = tensor.transpose(2, 3)
        elif ".downsample." in key:  # neighbours (0,0), (0,1), (1,0), (1,1) of each channel
            by_neighbour = tensor.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]
            state[key] = by_neighbour.flatten(-2)
    transposed.load_state_dict(state)
    images = torch.randn(1, 3, 45, 70, dtype=torch.float64)
    expected = [m.transpose(2, 3) for m in model(images)]
    for actual, wanted in zip(transposed(images.transpose(2, 3)), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", PORTABLE_BACKENDS)
def test_backends_give_the_same_maps(backend):
    model = make(backend=backend).double().eval()
    other = make(backend="reference").double().eval()
    other.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 50, 61, dtype=torch.float64)
    for a, b in zip(model(images), other(images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_absolute_position_embedding_fits_any_size():
    model = make(use_abs_pos_embed=True, pretrain_img_size=32).eval()
    for size in [(32, 32), (57, 90), (3, 3)]:
        assert model(torch.randn(1, 3, *size))[0].shape[-1] == math.ceil(size[1] / 4)
    assert model.absolute_pos_embed.shape == (1, 64, 12)


def test_checkpointing_changes_memory_and_nothing_else():
    model, checkpointed = make(drop_path_rate=0.3), make(drop_path_rate=0.3, with_cp=True)
    checkpointed.load_state_dict(model.state_dict())
    images = torch.randn(4, 3, 40, 40)
    gradients = []
    for candidate in (model, checkpointed):
        torch.manual_seed(7)
        sum(m.square().mean() for m in candidate.train()(images)).backward()
        gradients.append({n: p.grad for n, p in candidate.named_parameters()})
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], msg=name)


def test_checkpointing_stores_fewer_activations():
    def stored_elements(model):
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.train()(torch.randn(1, 3, 64, 64))
        return total

    assert stored_elements(make(with_cp=True)) < 0.5 * stored_elements(make())


def test_checkpointing_works_behind_a_frozen_stage():
    model = make(with_cp=True, frozen_stages=1).train()
    sum(m.square().mean() for m in model(torch.randn(1, 3, 32, 32))).backward()
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None}
    assert "0" not in trained - {"weight", "bias"}
    assert all(p.grad is not None for p in model.stages[1].parameters())


@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 4])
def test_frozen_stages_neither_train_nor_leave_evaluation_mode(frozen_stages):
    model = make(frozen_stages=frozen_stages, use_abs_pos_embed=True, drop_rate=0.1)
    frozen = [model.patch_embed] if frozen_stages >= 0 else []
    frozen += [model.stages[i] for i in range(frozen_stages)]
    frozen += [getattr(model, f"norm{i}") for i in range(frozen_stages)]
    assert model.train() is model
    frozen_parameters = {id(p) for module in frozen for p in module.parameters()}
    if frozen_stages >= 0:
        frozen_parameters.add(id(model.absolute_pos_embed))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (id(parameter) not in frozen_parameters), name
    assert not any(m.training for module in frozen for m in module.modules())
    assert model.drop_after_pos.training == (frozen_stages < 0)


@pytest.mark.parametrize("out_indices", [(0,), (0, 1), (2,), (1, 3)])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("mode", [{}, {"mask_padding": True}, {"packed": True}])
def test_stages_past_the_last_map_are_not_run(out_indices, version, mode):
    """The maps are those of the whole model, whose checkpoints load; all that is trained learns."""
    whole = make(version=version, **mode).double()
    model = make(version=version, out_indices=out_indices, **mode).double()
    norms = {f"norm{i}." for i in range(4) if i not in out_indices}
    state = {k: v for k, v in whole.state_dict().items() if k[:6] not in norms}
    assert state.keys() == model.state_dict().keys()
    model.load_state_dict(state)
    run = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: run.append(name))
    images, sizes = (
        torch.randn(2, 3, 36, 44, dtype=torch.float64),
        torch.tensor([[36, 9], [20, 44]]),
    )
    sizes = [sizes] if mode else []
    with torch.no_grad():
        expected = whole.eval()(images, *sizes)
        for found, index in zip(model.eval()(images, *sizes), out_indices, strict=True):
            torch.testing.assert_close(found, expected[index], rtol=1e-12, atol=1e-12)
    last = out_indices[-1]
    idle = (f"stages.{last}.downsample", *(f"stages.{i}" for i in range(last + 1, 4)))
    assert f"stages.{last}" in run
    assert not [name for name in run if name.startswith(idle)]
    sum(x.square().mean() for x in model.train()(images, *sizes)).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.requires_grad != name.startswith(idle), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"drop_path_rate": 0.9},  # branches of all images dropped
        {"drop_path_rate": 0.9, "with_cp": True},
        {"version": "v2", "drop_path_rate": 0.9, "extra_norm_every_n_blocks": 1},
        {"frozen_stages": 2, "use_abs_pos_embed": True, "out_indices": (1, 2)},
        {"patch_norm": False, "qkv_bias": False, "small_maps": "shrink"},
        {"norm_cfg": {"type": "LN", "bias": False}, "use_abs_pos_embed": True},
        {"mask_padding": True, "use_abs_pos_embed": True},
        {"packed": True, "drop_path_rate": 0.9},
    ],
)
@pytest.mark.parametrize("images", [0, 1, 2])
def test_all_that_is_trained_gets_a_gradient(options, images):
    """DDP stops where a parameter gets none; zeros will do."""
    model = make(**options).train()
    takes_sizes = {"mask_padding", "packed"} & options.keys()
    sizes = [torch.tensor([[20, 28], [9, 15]])[:images]] if takes_sizes else []
    for _ in range(3):
        model.zero_grad()
        sum(x.sum() for x in model(torch.randn(images, 3, 20, 28), *sizes)).backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name


def test_train_and_eval_return_the_module():
    model = make()
    assert model.eval() is model
    assert not model.training
    assert model.train() is model
    assert model.training


def test_drop_path_rises_linearly_and_drops_whole_samples():
    model = make(drop_path_rate=0.7)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(8)])
    drop_path = model.stages[3].blocks[1].drop_path.train()
    out = drop_path(torch.ones(2000, 3))
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.3).item()}
    assert torch.equal(out.amin(1), out.amax(1))
    assert out.mean() == pytest.approx(1.0, abs=0.15)
    assert torch.equal(drop_path.eval()(torch.ones(5)), torch.ones(5))


def test_dropout_acts_in_training_only():
    model = make(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.2)
    images = torch.randn(1, 3, 32, 32)
    assert not torch.equal(model.train()(images)[-1], model(images)[-1])
    assert torch.equal(model.eval()(images)[-1], model(images)[-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", PORTABLE_BACKENDS)
def test_mixed_precision_trains(backend, dtype):
    """Near the float32 maps (8 and 11 bits of mantissa, some 20 roundings), finite gradients."""
    model = make(backend=backend).eval()
    images = torch.randn(2, 3, 45, 50)
    exact = model(images)
    with torch.autocast("cpu", dtype=dtype):
        maps = model(images)
    for a, b in zip(maps, exact, strict=True):
        assert (a.float() - b).norm() / b.norm() < (0.05 if dtype == torch.bfloat16 else 0.01)
    sum(m.float().square().mean() for m in maps).backward()
    assert all(
        p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters()
    )


def test_no_buffers():
    """Nothing for DDP to broadcast and for checkpoints to carry."""
    model = make(use_abs_pos_embed=True)
    model(torch.randn(1, 3, 40, 40))
    assert list(model.buffers()) == []
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()


def test_sizes_may_alternate():
    model = make().eval()
    images = torch.randn(1, 3, 50, 34)
    first = model(images)
    model(torch.randn(3, 3, 96, 17))
    for a, b in zip(first, model(images), strict=True):
        assert torch.equal(a, b)


def test_builds_from_a_config():
    model = MODELS.build({"type": "SwinBackbone", "arch": "tiny", "out_indices": (2, 3)})
    assert model.num_features == [96, 192, 384, 768]
    assert model.out_indices == (2, 3)


def test_other_norms_come_from_the_registry():
    MODELS.register_module("ZeroNorm", module=torch.nn.Identity, force=True)
    assert isinstance(make(norm_cfg={"type": "ZeroNorm"}).norm0, torch.nn.Identity)
    frozen = make(norm_cfg={"type": "LN", "requires_grad": False})
    assert not frozen.norm0.weight.requires_grad


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"arch": "huge"}, ValueError, "arch must be one of 'tiny', .* got 'huge'"),
        ({"arch": "base", "depths": (2, 2, 2, 2)}, ValueError, "arch='base' sets depths"),
        ({"backend": "warp"}, ValueError, "backend must be one of .* got 'warp'"),
        ({"embed_dims": 97}, ValueError, "num_heads must divide .*embed_dims=97"),
        ({"depths": (2, 2, 6)}, ValueError, "depths and num_heads must have one entry a stage"),
        ({"depths": (2, 2, 0, 2)}, ValueError, "depths must be integers >= 1"),
        ({"out_indices": (0, 4)}, ValueError, r"out_indices must be ascending .* got \(0, 4\)"),
        ({"out_indices": (2, 1)}, ValueError, r"out_indices must be ascending .* got \(2, 1\)"),
        ({"out_indices": (1, 1)}, ValueError, "out_indices must be ascending"),
        ({"out_indices": ()}, ValueError, "out_indices must be ascending"),
        ({"window_size": 0}, ValueError, "window_size must be .* got 0"),
        ({"window_size": (7, -1)}, ValueError, "window_size must be"),
        ({"window_size": "7"}, TypeError, "window_size must be an integer or two, got '7'"),
        ({"window_size": 7.0}, TypeError, "window_size must be an integer or two"),
        ({"frozen_stages": 5}, ValueError, r"frozen_stages must lie in \[-1, 4\], got 5"),
        ({"drop_path_rate": 1.5}, ValueError, "drop_path_rate must lie in"),
        ({"patch_size": 8}, ValueError, r"strides\[0\] must equal patch_size"),
        ({"strides": (4, 2)}, ValueError, "strides must have 4 entries"),
        ({"norm_cfg": {"type": "NoSuchNorm"}}, ValueError, "norm_cfg must name .* 'NoSuchNorm'"),
        ({"act_cfg": {}}, ValueError, "act_cfg must name a layer"),
        ({"init_cfg": {"type": "Kaiming"}}, ValueError, "init_cfg must be None or"),
        ({"pretrained": 3}, TypeError, "pretrained must be a path"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message), torch.device("meta"):
        SwinBackbone(**options)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "floating point.* got torch.uint8"),
        (torch.zeros(1, 4, 8, 8), ValueError, r"in_channels=3.* got \(1, 4, 8, 8\)"),
        (torch.zeros(3, 8, 8), ValueError, r"got \(3, 8, 8\)"),
        (torch.zeros(1, 3, 0, 8), ValueError, r"H, W >= 1, got \(1, 3, 0, 8\)"),
    ],
)
def test_bad_images_are_named(images, error, message):
    with pytest.raises(error, match=message):
        make()(images)


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("weights", DTYPES)
@pytest.mark.parametrize("images", DTYPES)
@pytest.mark.parametrize("mode", [{}, {"mask_padding": True}, {"packed": True}, "forward_packed"])
def test_images_have_the_dtype_of_the_weights(weights, images, mode):
    """Or float32 and autocast joins them, as it does but for float64; else an error names both."""
    model = SwinBackbone(**TINY_TWO_STAGES, strides=(4, 2), **(mode if type(mode) is dict else {}))
    model.to(weights).eval()
    x = torch.rand(1, 3, 9, 9, dtype=images)

    def run():
        with torch.no_grad():
            return model.forward_packed(list(x)) if mode == "forward_packed" else model(x)

    message = f"images of {images} and weights of {weights}"
    for autocast in [False, True][: 1 + (weights == torch.float32)]:
        joined = autocast and torch.float64 not in (images, weights)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            if images == weights or joined:
                run()
            else:
                with pytest.raises(TypeError, match=message):
                    run()
