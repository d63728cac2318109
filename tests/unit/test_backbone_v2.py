"""Swin V2 and the rules for small maps: what they mean, and all options of V1 with them."""

import math

import pytest
import torch
from helpers.errors import assert_small, pooled_errors
from torch import nn

from swin_backbone import SwinBackbone
from swin_backbone.model import (
    ContinuousPositionBias,
    PatchMergingV2,
    SwinBlockV2,
    WindowAttention,
    WindowAttentionV2,
)
from swin_backbone.ops import (
    BACKENDS,
    TokenLayout,
    fit_window,
    log_spaced_offsets,
    shifted_window_attention,
)

PORTABLE_BACKENDS = [name for name in BACKENDS if name != "triton"]
COSINE_BACKENDS = PORTABLE_BACKENDS
SMALL = {"version": "v2", "embed_dims": 12, "depths": (2, 2, 2), "num_heads": (1, 2, 3)}
SMALL |= {"out_indices": (0, 1, 2), "window_size": 4}


def make(**options):
    """With norms that let the branches through: at first, they multiply them by zero."""
    model = SwinBackbone(**{**SMALL, **options})
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (31, 64), (57, 33)])
@pytest.mark.parametrize("window_size", [8, (3, 5), 24])
def test_maps_have_ceiling_sizes_for_any_image(size, window_size):
    for stage, features in enumerate(make(window_size=window_size)(torch.randn(2, 3, *size))):
        stride = 4 * 2**stage
        expected = (2, 12 * 2**stage, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        assert features.shape == expected
        assert features.isfinite().all()


def test_attention_is_equation_2_with_the_bias_of_equation_3():
    """One window, token by token: tau * cos(q, k) + 16 sigmoid(MLP(offset)), no bias for keys."""
    attention = WindowAttentionV2(8, 2, (3, 3)).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(1, 3, 3, 8, dtype=torch.float64)
    tokens = x.flatten(0, 2)
    query, key, value = (tokens @ w.t() for w in attention.qkv.weight.chunk(3))
    query, value = query + attention.q_bias, value + attention.v_bias
    out = torch.zeros(9, 2, 4, dtype=torch.float64)
    for head in range(2):
        q, k, v = (t.view(9, 2, 4)[:, head] for t in (query, key, value))
        tau = attention.logit_scale[head].exp().clamp(max=100).item()
        scores = torch.zeros(9, 9, dtype=torch.float64)
        for i in range(9):
            for j in range(9):
                offset = torch.tensor([i // 3 - j // 3, i % 3 - j % 3], dtype=torch.float64)
                offset = offset.sign() * torch.log2(1 + (offset * 8 / 2).abs()) / math.log2(8)
                hidden = torch.relu(attention.cpb_mlp[0](offset))
                bias = 16 * torch.sigmoid(attention.cpb_mlp[2](hidden))[head]
                scores[i, j] = tau * torch.cosine_similarity(q[i], k[j], dim=0) + bias
        out[:, head] = scores.softmax(-1) @ v
    expected = attention.proj(out.flatten(1)).view(1, 3, 3, 8)
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-10)


def test_logit_scale_is_clamped_at_100():
    attention = WindowAttentionV2(8, 2, (4, 4))
    x = torch.randn(1, 4, 4, 8)
    results = []
    for factor in (100.0, 5000.0):
        nn.init.constant_(attention.logit_scale, math.log(factor))
        results.append(attention(x))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_bias_of_another_window_agrees_where_offsets_do():
    """With the trained window as reference, the same offset has the same bias in any window."""
    network = ContinuousPositionBias(3)
    small = network((4, 4), (4, 4)).view(7, 7, 3)
    large = network((6, 5), (4, 4)).view(11, 9, 3)
    torch.testing.assert_close(large[2:-2, 1:-1], small)
    assert not torch.allclose(network((6, 5)).view(11, 9, 3)[2:-2, 1:-1], small)


def test_offsets_of_one_token_and_of_the_farthest():
    assert torch.equal(log_spaced_offsets((1, 1), (1, 1)), torch.zeros(1, 2))
    farthest = math.log2(9) / 3
    offsets = log_spaced_offsets((3, 5), (3, 5))
    torch.testing.assert_close(offsets[0], torch.tensor([-farthest, -farthest]))
    torch.testing.assert_close(offsets[-1], torch.tensor([farthest, farthest]))
    torch.testing.assert_close(offsets[4], torch.tensor([-farthest, 0]))


def test_block_norms_its_branches_and_merging_norms_last():
    block = SwinBlockV2(WindowAttentionV2(8, 2, (4, 4)), 8, 16, extra_norm=True)
    x = torch.randn(1, 5, 6, 8)
    middle = x + block.norm1(block.attn(x))
    torch.testing.assert_close(block(x), block.norm3(middle + block.norm2(block.mlp(middle))))
    merging = PatchMergingV2(4, 6)
    neighbours = [x[..., :4][:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    neighbours = [nn.functional.pad(n, (0, 0, 0, 0, 0, 3 - n.shape[1])) for n in neighbours]
    merged = torch.stack(neighbours, -1).flatten(-2)
    torch.testing.assert_close(merging(x[..., :4]), merging.norm(merging.reduction(merged)))


@pytest.mark.parametrize("window_size", [(4, 4, 2), ((4, 4), 4, (2, 2))])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_each_stage_may_have_its_own_windows(version, window_size):
    model = make(version=version, window_size=window_size)
    assert model.window_sizes == ((4, 4), (4, 4), (2, 2))
    windows = [stage.blocks[1].attn.window_size for stage in model.stages]
    shifts = [stage.blocks[1].attn.shift_size for stage in model.stages]
    assert windows == [(4, 4), (4, 4), (2, 2)]
    assert shifts == [(2, 2), (2, 2), (1, 1)]
    two_stages = make(depths=(2, 2), num_heads=(1, 2), out_indices=(0, 1), window_size=(3, 5))
    assert two_stages.window_sizes == ((3, 5), (3, 5))  # rows and columns


@pytest.mark.parametrize("with_cp", [False, True])
def test_a_block_keeps_images_of_a_batch_apart_from_their_padding(with_cp):
    block = make(with_cp=with_cp).stages[0].blocks[1].double().eval()
    sizes = torch.tensor([[9, 11], [5, 3]])
    x = torch.randn(2, 9, 11, 12, dtype=torch.float64)
    x[1, 5:], x[1, :, 3:] = 1e3, float("nan")
    out = block(x, TokenLayout(sizes))
    for image, (rows, columns) in zip(range(2), sizes.tolist(), strict=True):
        alone = x[image : image + 1, :rows, :columns]
        own = torch.tensor([[rows, columns]])
        torch.testing.assert_close(out[image, :rows, :columns], block(alone, TokenLayout(own))[0])


def test_extra_norms_come_every_n_blocks_of_a_stage():
    model = make(depths=(2, 4, 3), extra_norm_every_n_blocks=2)
    found = {name.rsplit(".", 1)[0] for name, _ in model.named_parameters() if "norm3" in name}
    assert found == {f"stages.{s}.blocks.{b}.norm3" for s, b in [(0, 1), (1, 1), (1, 3), (2, 1)]}


def test_untrained_blocks_are_the_identity():
    model = SwinBackbone(**SMALL)
    model.init_weights()
    x = torch.randn(1, 6, 7, 12)
    assert torch.equal(model.stages[0].blocks[1](x), x)
    logits = model.stages[0].blocks[0].attn.logit_scale
    torch.testing.assert_close(logits, torch.full_like(logits, math.log(10)))


def test_no_buffers():
    model = make(pretrained_window_sizes=(4, 4, 2))
    model(torch.randn(1, 3, 40, 40))
    assert list(model.buffers()) == []


@pytest.mark.parametrize("small_maps", ["shift", "shrink"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_backends_give_the_same_maps(version, small_maps):
    model = make(backend="sdpa", version=version, small_maps=small_maps).double().eval()
    other = make(backend="reference", version=version, small_maps=small_maps).double().eval()
    other.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 50, 30, dtype=torch.float64)
    for a, b in zip(model(images), other(images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_compiles_without_graph_breaks():
    model = make(depths=(2,), num_heads=(1,), out_indices=(0,), backend="sdpa").eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    images = torch.randn(2, 3, 33, 61)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(images)[0], model(images)[0])


def test_counts_on_the_meta_device():
    with torch.device("meta"):
        model = SwinBackbone(**SMALL)
    assert model(torch.empty(1, 3, 30, 40, device="meta"))[2].shape == (1, 48, 2, 3)


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


def test_frozen_stages_do_not_train_and_every_other_parameter_does():
    model = make(frozen_stages=1, with_cp=True).train()
    sum(m.square().mean() for m in model(torch.randn(1, 3, 45, 38))).backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("patch_embed.", "stages.0.", "norm0."))
        assert (parameter.grad is None) == frozen, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", COSINE_BACKENDS)
def test_mixed_precision_trains(backend, dtype):
    """Near the float32 maps, finite gradients. Mantissas of 8 and 11 bits lose 10 * 2**-9 and
    10 * 2**-12 in a logit of 10 times a cosine, and norms after each of six branches bring every
    branch's relative error, not its absolute one, to the main branch: errors of one draw are large
    or small by chance, and pooled over five."""
    found, right = [], []
    for _ in range(5):
        model = SwinBackbone(**SMALL, backend=backend).eval()
        model.init_weights()
        for name, parameter in model.named_parameters():
            if name.endswith(("norm1.weight", "norm2.weight")):
                nn.init.ones_(parameter)
        images = torch.randn(2, 3, 45, 50)
        right.append([m.detach() for m in model(images)])
        with torch.autocast("cpu", dtype=dtype):
            maps = model(images)
        found.append([m.detach() for m in maps])
        sum(m.float().square().mean() for m in maps).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
    assert_small(pooled_errors(found, right), 0.1 if dtype == torch.bfloat16 else 0.015)


RULES = {  # rule: (map, window, shift wanted) -> window, shift
    "shift": {((3, 9), (4, 4), (2, 2)): ((4, 4), (2, 2))},
    "no_shift": {
        ((3, 9), (4, 4), (2, 2)): ((4, 4), (0, 2)),
        ((4, 4), (4, 4), (2, 2)): ((4, 4), (0, 0)),
        ((5, 2), (4, 4), (2, 2)): ((4, 4), (2, 0)),
    },
    "shrink": {
        ((3, 9), (4, 4), (2, 2)): ((3, 4), (0, 2)),
        ((4, 9), (4, 5), (2, 2)): ((4, 5), (0, 2)),
        ((3, 2), (4, 4), (0, 0)): ((3, 2), (0, 0)),
    },
    "shrink_square": {
        ((3, 9), (4, 4), (2, 2)): ((3, 3), (0, 0)),
        ((4, 9), (4, 4), (2, 2)): ((4, 4), (0, 0)),
        ((5, 9), (4, 4), (2, 2)): ((4, 4), (2, 2)),
    },
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_for_small_maps(rule):
    for (size, window, shift), expected in RULES[rule].items():
        assert fit_window(size, window, shift, rule) == expected


@pytest.mark.parametrize("size", [(3, 12), (5, 2), (2, 2), (12, 5)])
def test_a_shrunk_window_sees_what_a_masked_one_sees(size):
    """A window cut down to the map is the whole window whose padding is masked: the bias of an
    offset stays the same (V1)."""
    attention = WindowAttention(8, 2, (6, 6), (3, 3), small_maps="shrink").double()
    nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    masked = shifted_window_attention(
        attention.qkv(x), attention.relative_position_bias_table, num_heads=2,
        window_size=(6, 6), shift_size=tuple(0 if n <= 6 else 3 for n in size),
        valid_sizes=torch.tensor([size, size]),
    )  # fmt: skip
    torch.testing.assert_close(attention(x), attention.proj(masked), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"version": "v3"}, ValueError, "version must be one of 'v1', 'v2', got 'v3'"),
        ({"small_maps": "crop"}, ValueError, "small_maps must be one of 'shift', 'no_shift'"),
        ({"window_size": (7, 7, 7, 7)}, ValueError, "window_size must be one integer, rows and"),
        ({"window_size": (7, 7, 0)}, ValueError, "window_size must be one integer >= 1"),
        ({"qk_scale": 0.5}, ValueError, "leave out qk_scale=0.5"),
        ({"extra_norm_every_n_blocks": -1}, ValueError, "extra_norm_every_n_blocks must be >= 0"),
        ({"extra_norm_every_n_blocks": 1.5}, TypeError, "must be an integer, got 1.5"),
        ({"pretrained_window_sizes": 8}, TypeError, "must have one entry a stage, got 8"),
        ({"pretrained_window_sizes": (8, 8)}, ValueError, "must have 3 entries"),
        ({"pretrained_window_sizes": (8, 8, -1)}, ValueError, "pretrained_window_sizes must be"),
        ({"version": "v1", "extra_norm_every_n_blocks": 6}, ValueError, "options of version='v2'"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message), torch.device("meta"):
        SwinBackbone(**{**SMALL, **options})
