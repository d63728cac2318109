"""What runs in each layer, and why not faster: that it is true, and that asking changes nothing."""

import pytest
import torch
from helpers.by_modules import calling_modules
from torch import nn
from torch.nn.utils import parametrize

from swin_backbone import SwinBackbone, explain
from swin_backbone.model import SwinBlock
from swin_backbone.ops import dispatch

OPTIONS = {"embed_dims": 8, "depths": (2, 1), "num_heads": (1, 2), "strides": (4, 2),
           "out_indices": (0, 1), "window_size": 4}  # fmt: skip
IMAGES = torch.randn(2, 3, 24, 20)


def make(**options):
    return SwinBackbone(**(OPTIONS | options))


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


#: What may stand in a block's way, and how the reason names it.
CHANGES = {
    "attn.qkv is a Sequential": lambda b: setattr(b.attn, "qkv", nn.Sequential(b.attn.qkv)),
    "attn.proj is a ParametrizedLinear": lambda b: parametrize.register_parametrization(
        b.attn.proj, "weight", Doubled()
    ),
    "mlp.fc1 has hooks": lambda b: b.mlp.fc1.register_forward_hook(lambda *_: None),
    "norm2 is a Identity": lambda b: setattr(b, "norm2", nn.Identity()),
    "norm1 has weights that are more": lambda b: setattr(
        b, "norm1", nn.LayerNorm(8, elementwise_affine=False)
    ),
    "mlp drops out, or has another activation": lambda b: setattr(b.mlp, "act", nn.ReLU()),
    "attn drops out": lambda b: setattr(b.attn, "proj_drop", nn.Dropout(0.5).train()),
    "drop_path has hooks or a forward of its own": lambda b: setattr(
        b.drop_path, "forward", lambda x, *_: x
    ),
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_block_that_calls_its_modules_says_why(words):
    model = make()
    block = model.stages[0].blocks[1]
    assert block.why_by_modules() is None
    assert block.branch_parameters() is not None
    CHANGES[words](block)
    assert block.branch_parameters() is None
    assert block.why_by_modules().startswith(words)
    rows = [row for row in explain(model, IMAGES, show=False) if row.operation == "block"]
    assert [row.layer for row in rows] == ["stages.0.blocks.1"]
    assert rows[0].refused[0][1].startswith(words)


def test_hooks_of_all_modules_are_a_reason():
    model = make()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        reasons = {m.why_by_modules() for m in model.modules() if isinstance(m, SwinBlock)}
    finally:
        handle.remove()
    assert reasons == {"norm1 is called with hooks of all modules"}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_it_says_what_runs_without_being_asked(version, backend, mode):
    """The listening alone, without names of layers and so without hooks, hears the same."""
    model = make(version=version, backend=backend, drop_path_rate=0.0)
    getattr(model, mode)()
    heard = []
    with dispatch.listening(heard.append):
        model(IMAGES)
    rows = explain(model, IMAGES, show=False)
    told = [(row.operation, row.way, row.refused) for row in rows if row.operation != "block"]
    assert {tuple(decision) for decision in heard} == set(told)
    by_layer = {row.layer for row in rows}
    assert {"patch_embed", "stages.0.blocks.0", "stages.0.downsample", "norm0", "norm1"} <= by_layer


def count(model, _images):
    model.count.add_(1)


def test_nothing_changes():
    model = make(norm_cfg={"type": "LN"}, drop_path_rate=0.5).train()
    model.register_buffer("count", torch.zeros(1))
    model.register_forward_pre_hook(count)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    explain(model, IMAGES, show=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.stages.modules())


def test_a_whole_model_is_explained_with_its_names_and_printed(capsys):
    whole = nn.ModuleDict({"neck": nn.Identity(), "backbone": make()})
    rows = explain(whole, IMAGES)
    printed = capsys.readouterr().out
    assert printed.startswith("layer")
    assert "backbone.stages.0.blocks.0 to 1" in printed
    assert "triton: no CUDA device" in printed
    assert all(row.layer.startswith("backbone.") for row in rows)


def test_an_example_image_is_made_where_none_is_given():
    rows = explain(make().double(), show=False)
    assert any("got torch.float64" in reason or "no CUDA" in reason
               for row in rows for _, reason in row.refused)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((nn.Linear(2, 2),), ValueError, "must be or have a SwinBackbone, got a Linear"),
        (("swin",), TypeError, "model must be a torch.nn.Module, got 'swin'"),
        ((make(), "image.png"), TypeError, "images must be a tensor"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        explain(*arguments)


def test_layers_that_call_modules_hear_no_branch():
    """A stand-in for the classes' forward functions decides nothing but attention."""
    heard = []
    with calling_modules(), dispatch.listening(heard.append):
        make().eval()(IMAGES)
    assert {decision.operation for decision in heard} == {"attention"}
