"""Every argument against every kind of bad value, and the good values in every form."""

import inspect
import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import HOOKS, MODELS, Registry
from torch import nn

import swin_backbone
from swin_backbone import SwinBackbone, create, list_checkpoints
from swin_backbone.model.arguments import ARCHITECTURES, KINDS
from swin_backbone.ops import (
    fit_window,
    shifted_window_attention,
    shifted_window_attention_packed,
)

BASE = {
    "embed_dims": 8,
    "depths": (1, 1),
    "num_heads": (1, 2),
    "strides": (4, 2),
    "out_indices": (0, 1),
}
#: What an argument needs beside itself to be of effect.
BESIDE = {
    "pretrained_window_sizes": {"version": "v2"},
    "extra_norm_every_n_blocks": {"version": "v2"},
    "arch": {"embed_dims": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24),
             "strides": (4, 2, 2, 2)},
}  # fmt: skip
FLAGS = [
    "qkv_bias", "patch_norm", "use_abs_pos_embed", "with_cp", "mask_padding", "packed",
    "convert_weights", "output_norms",
]  # fmt: skip
RATES = ["drop_rate", "attn_drop_rate", "drop_path_rate"]


class Stranger:
    def __repr__(self):
        raise RuntimeError("no text for this")


#: No argument takes these, but for :data:`TAKEN`.
BAD = {
    "None": None,
    "text": "x",
    "number as text": "7",
    "'False'": "False",
    "bytes": b"x",
    "1.5": 1.5,
    "2.0": 2.0,
    "True": True,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "complex": 1j,
    "0": 0,
    "-1": -1,
    "-2": np.int64(-2),
    "2**31": 2**31,
    "10**5000": 10**5000,
    "fraction": Fraction(1, 3),
    "numpy's nan": np.float32("nan"),
    "numpy's True": np.True_,
    "[1]": [1],
    "[]": [],
    "[1.0, 2.0]": [1.0, 2.0],
    "[True, True]": [True, True],
    "[None]": [None],
    "[[1, 2, 3]]": [[1, 2, 3]],
    "['7', '7']": ["7", "7"],
    "[nan, nan]": [math.nan, math.nan],
    "[-1, -1]": [-1, -1],
    "dict": {"a": 1},
    "set": {1, 2},
    "a type": int,
    "tensor": torch.ones(2),
    "float array": np.ones(2),
    "stranger": Stranger(),
}
_NONE = {"None"}
_FLAG = {"True", "numpy's True"}
_RATE = {"0", "fraction"}
_TEXT = {"None", "text", "number as text", "'False'"}
#: What of these an argument does take.
TAKEN = {
    **dict.fromkeys(FLAGS, _FLAG),
    **dict.fromkeys(RATES, _RATE),
    "pretrain_img_size": {"[1]"},
    "window_size": {"[1]"},
    "mlp_ratio": {"1.5", "2.0", "fraction"},
    "qk_scale": {"None", "1.5", "2.0", "2**31", "fraction"},
    "out_indices": {"[1]"},
    "frozen_stages": {"0", "-1"},
    "extra_norm_every_n_blocks": {"0"},
    "pretrained": _TEXT,
    "init_cfg": _NONE,
    "arch": _NONE,
    "pretrained_window_sizes": _NONE,
}  # fmt: skip

#: Good values, in each form that a config or a program may have them.
GOOD = {
    "pretrain_img_size": [224, np.int32(8), (8, 12), [8, 12], np.array([8, 12]), (9,)],
    "in_channels": [1, 3, np.int64(4)],
    "embed_dims": [8, np.int64(16), np.uint8(4)],
    "patch_size": [4, [4, 4], (4, 4), np.array([4, 4]), np.int64(4)],
    "window_size": [7, np.int64(7), (3, 5), [3, 5], [[3, 5], 4], np.array([3, 5])],
    "mlp_ratio": [4, 4.0, 0.5, np.float32(2), np.int64(2)],
    "depths": [(1, 2), [1, 2], np.array([1, 2]), [np.int64(1), 2], range(1, 3)],
    "num_heads": [(1, 2), [2, 4], np.array([1, 2])],
    "strides": [(4, 2), [4, 2], np.array([4, 2]), [4, 2, 2, 2], ((4, 4), (2, 3))],
    "out_indices": [(0,), [0, 1], (1,), np.array([0, 1]), range(2), [np.int64(1)]],
    **dict.fromkeys(FLAGS, (True, False, np.bool_(True), np.bool_(False))),
    "qk_scale": [None, 0.1, 1, np.float64(2)],
    **dict.fromkeys(RATES, (0, 0.0, 0.5, np.float32(0.25))),
    "act_cfg": [{"type": "GELU"}, ConfigDict(type="ReLU", inplace=True), {"type": nn.SiLU}],
    "norm_cfg": [
        {"type": "LN"},
        ConfigDict(type="LN", eps=1e-6, requires_grad=False),
        {"type": nn.RMSNorm},
        {"type": "LN", "elementwise_affine": False},
        {"type": "LN", "bias": False},
    ],
    "pretrained": [None, "x.pth"],
    "frozen_stages": [-1, 0, 2, np.int64(1)],
    "init_cfg": [None, {"type": "Pretrained", "checkpoint": "x"},
                 [{"type": "Pretrained", "checkpoint": "x"}],
                 ConfigDict(type="Pretrained", checkpoint="x")],
    "arch": [None, "tiny"],
    "backend": ["auto", "reference", np.str_("cpu")],
    "version": ["v1", "v2"],
    "pretrained_window_sizes": [None, (4, 0), [[4, 5], 0], np.array([4, 4]), ((0, 0), (3, 3))],
    "extra_norm_every_n_blocks": [0, 1, np.int64(2)],
    "small_maps": ["shift", "shrink"],
    "table_interpolation": ["bicubic", "log_spaced"],
}  # fmt: skip


def build(**options):
    with torch.device("meta"):
        return SwinBackbone(**options)


def complaints(name, call, taken=()):
    """Bad values that ``call`` did not refuse by the argument's name."""
    found = []
    for label, value in BAD.items():
        if label in taken:
            continue
        try:
            call(value)
        except (TypeError, ValueError) as error:
            if not re.search(rf"\b{name}\b", str(error)) or len(str(error)) > 2000:
                found.append(f"{label}: {type(error).__name__}: {error}")
        except Exception as error:
            found.append(f"{label}: {type(error).__name__}: {error}")
        else:
            found.append(f"{label}: accepted")
    return found


def test_the_table_has_every_argument():
    arguments = list(inspect.signature(SwinBackbone.__init__).parameters)[1:]
    assert sorted(KINDS) == sorted(arguments)
    assert sorted(GOOD) == sorted(arguments)


@pytest.mark.parametrize("name", KINDS)
def test_bad_values_are_refused_by_name(name):
    beside = {**BASE, **BESIDE.get(name, {})}
    found = complaints(name, lambda value: build(**{**beside, name: value}), TAKEN.get(name, ()))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", GOOD)
def test_good_values_are_taken_in_every_form(name):
    for value in GOOD[name]:
        model = build(**{**BASE, **BESIDE.get(name, {}), name: value})
        sides = [side for size in (*model.window_sizes, *model.strides) for side in size]
        numbers = [*model.depths, *model.out_indices, *model.num_features, *sides]
        assert {type(number) for number in numbers} == {int}


def test_forms_mean_the_same():
    forms = [
        {"window_size": (3, 5), "depths": (1, 1), "mlp_ratio": 2, "drop_path_rate": 0.5},
        {"window_size": [3, 5], "depths": [1, 1], "mlp_ratio": 2.0, "drop_path_rate": 0.5},
        {"window_size": np.array([3, 5]), "depths": np.array([1, 1]), "mlp_ratio": np.int64(2),
         "drop_path_rate": np.float32(0.5)},
        ConfigDict(window_size=[[3, 5], [3, 5]], depths=[1, 1], mlp_ratio=2, drop_path_rate=0.5),
    ]  # fmt: skip
    assert len({str(build(**{**BASE, **form})) for form in forms}) == 1


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"depths": (1, 1, 1)}, ["depths", "num_heads"]),
        ({"embed_dims": 9, "num_heads": (2, 2)}, ["embed_dims", "num_heads"]),
        ({"mlp_ratio": 0.01}, ["mlp_ratio", "embed_dims"]),
        ({"mlp_ratio": 1e300}, ["mlp_ratio"]),
        ({"use_abs_pos_embed": True, "pretrain_img_size": 3}, ["pretrain_img_size", "patch_size"]),
        ({"out_indices": (0, 2)}, ["out_indices"]),
        ({"frozen_stages": 3}, ["frozen_stages"]),
        ({"strides": (2, 2)}, ["strides", "patch_size"]),
        ({"window_size": (3, 4, 5)}, ["window_size"]),
        ({"version": "v2", "pretrained_window_sizes": ((0, 4), 0)}, ["pretrained_window_sizes"]),
        ({"version": "v2", "qk_scale": 0.5}, ["qk_scale", "version"]),
        ({"arch": "base", "embed_dims": 9}, ["arch", "embed_dims"]),
        ({"init_cfg": {"type": "Pretrained", "checkpoint": "x"}, "pretrained": "x"},
         ["init_cfg", "pretrained"]),
        ({"no_such_argument": 1}, ["no_such_argument"]),
    ],
)  # fmt: skip
def test_arguments_that_do_not_go_together_are_named(options, names):
    with pytest.raises((TypeError, ValueError)) as error:
        build(**{**BASE, **options})
    assert all(name in str(error.value) for name in names), error.value


# Operations

OPERATIONS = {
    shifted_window_attention: {
        "qkv": torch.zeros(1, 4, 5, 24), "bias_table": torch.zeros(9, 2), "num_heads": 2,
        "window_size": (2, 2), "shift_size": (1, 0), "scale": 0.5, "logit_scale": None,
        "valid_sizes": torch.tensor([[2, 5]]), "padding_qkv": torch.zeros(24), "dropout_p": 0.0,
        "backend": "auto",
    },
    shifted_window_attention_packed: {
        "qkv": torch.zeros(10, 24), "sizes": [(2, 2), (2, 3)], "bias_table": torch.zeros(9, 2),
        "num_heads": 2, "window_size": (2, 2), "shift_size": (1, 0), "scale": 0.5,
        "logit_scale": None, "padding_qkv": torch.zeros(24), "mask_padding": True,
        "dropout_p": 0.0, "backend": "auto",
    },
    fit_window: {
        "size": (4, 5), "window_size": (7, 7), "shift_size": (3, 3), "rule": "shrink",
    },
}  # fmt: skip
OPERATIONS_TAKE = {
    "scale": {"None", "0", "-1", "1.5", "2.0", "-2", "2**31", "fraction"},
    "dropout_p": _RATE,
    "mask_padding": _FLAG,
    "logit_scale": {"None", "tensor"},
    "valid_sizes": _NONE,
    "padding_qkv": _NONE,
}


@pytest.mark.parametrize(
    ("operation", "name"), [(f, n) for f, options in OPERATIONS.items() for n in options],
    ids=lambda x: getattr(x, "__name__", x),
)  # fmt: skip
def test_operations_refuse_bad_values_by_name(operation, name):
    options = OPERATIONS[operation]
    operation(**options)
    assert set(options) == set(inspect.signature(operation).parameters)
    taken = OPERATIONS_TAKE.get(name, ())
    if name == "logit_scale":
        options = {**options, "scale": None}  # the other way to scale
    found = complaints(name, lambda value: operation(**{**options, name: value}), taken)
    assert not found, "\n".join(found)


# Creation


@pytest.mark.parametrize("name", ["name_or_config", "checkpoint"])
def test_creation_refuses_bad_values_by_name(name):
    good = {"name_or_config": {"type": "SwinBackbone", **BASE}, "checkpoint": None}
    taken = _TEXT if name == "checkpoint" else ()
    found = complaints(name, lambda value: create(**{**good, name: value}), taken)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": None}, "name_or_config must have a dict .* got None"),
        ({"model": {"backbone": "tiny"}}, "name_or_config must have a dict .* got 'tiny'"),
        ({"model": {"type": "EncoderDecoder"}}, "name_or_config .* got type='EncoderDecoder'"),
        ({"type": "NoSuchBackbone"}, "name_or_config .* got type='NoSuchBackbone'"),
        ({"type": nn.Linear}, "name_or_config .* got type=<class"),
        ({"type": 3}, "name_or_config .* got type=3"),
        ({"type": "SwinBackbone", "depth": (1, 1)}, "depth"),
        ({"type": "SwinBackbone", **BASE, "depths": "1"}, "depths must be"),
    ],
)
def test_configs_without_this_backbone_are_refused(config, message):
    with pytest.raises((TypeError, ValueError), match=message):
        create(config)
    with pytest.raises((TypeError, ValueError), match=message):
        create(ConfigDict(config))


def test_creation_refuses_options_by_name():
    for name in ("depths", "window_size", "with_cp"):
        found = complaints(name, lambda value, name=name: create("tiny", **{name: value}),
                           {*TAKEN.get(name, ()), "True", "numpy's True", "[1]"})  # fmt: skip
        assert not found, "\n".join(found)
    with pytest.raises(TypeError, match="depth"):
        create("tiny", depth=3)


def test_lists_refuse_what_they_do_not_know():
    for name in ("version", "library"):
        found = complaints(
            name, lambda value, name=name: list_checkpoints(**{name: value}), {"None"}
        )
        assert not found, "\n".join(found)
    names = swin_backbone.list_architectures()
    assert all(name in names for name in ARCHITECTURES)
    names.clear()  # a copy: nobody can change what others get
    assert swin_backbone.list_architectures()


# Layers that configs name


def registered(word):
    """Names under which classes with ``word`` in theirs are registered, in any package."""
    for package in ("mmcv.cnn", "mmseg.models", "mmdet.models"):
        pytest.importorskip(package)
    for registry in (MODELS, *MODELS.children.values()):
        for name, cls in registry.module_dict.items():
            if isinstance(cls, type) and issubclass(cls, nn.Module) and word in cls.__name__:
                yield name if registry is MODELS else f"{registry.scope}.{name}"


@pytest.mark.parametrize("norm", ["LN", nn.RMSNorm, nn.LayerNorm])
@pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"eps": 1e-3}])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_norms_of_the_last_axis_work(norm, options, version):
    """And they are what is computed: each map is normed by the output norm."""
    cfg = {"type": norm, **options}
    model = SwinBackbone(**BASE, norm_cfg=cfg, version=version)
    model.init_weights()
    maps = model.train()(torch.randn(2, 3, 20, 24))
    sum(x.square().mean() for x in maps).backward()
    for x in maps:
        assert x.isfinite().all()
        torch.testing.assert_close(x.square().mean(1).mean(), torch.tensor(1.0), rtol=0.1, atol=0.1)


def taken_of(argument, names, every_options):
    """The layers of these names that a backbone takes; the others it refuses by name."""
    taken = set()
    for name, options in itertools.product(names, every_options):
        try:
            model = SwinBackbone(**BASE, **{argument: {"type": name, **options}})
        except (TypeError, ValueError) as error:
            if argument not in str(error) or name not in str(error):
                raise
        else:
            taken.add(name)
            assert model(torch.randn(1, 3, 9, 9))[1].isfinite().all()
    return taken


def test_registered_norms_work_or_are_refused_by_name():
    names = list(registered("Norm"))
    assert {"BN", "BN1d", "BN2d", "BN3d", "SyncBN", "GN", "IN", "LN"} <= set(names)
    options = [{}, {"num_groups": 4}, {"affine": False}, {"track_running_stats": False}]
    assert taken_of("norm_cfg", names, options) == {"LN"}


def test_registered_activations_work_or_are_refused_by_name():
    """And what is registered under a name that sounds like none: paddings, upsampling."""
    names = [name for word in ("LU", "wish", "ig", "anh") for name in registered(word)]
    names += [name for name in MODELS.module_dict if name.islower()]
    taken = taken_of("act_cfg", names, [{}])
    assert {"GELU", "ReLU", "SiLU", "PReLU", "RReLU", "Sigmoid"} <= taken < set(names)


@pytest.mark.parametrize(
    ("argument", "cfg"),
    [
        ("norm_cfg", {"type": "LN", "eps": math.nan}),
        ("norm_cfg", {"type": "LN", "eps": "1e-5"}),
        ("norm_cfg", {"type": "LN", "eps": 0}),
        ("norm_cfg", {"type": "LN", "requires_grad": "False"}),
        ("norm_cfg", {"type": "LN", "elementwise_affine": "False"}),
        ("norm_cfg", {"type": "LN", "epsilon": 1e-5}),
        ("norm_cfg", {"type": nn.LayerNorm, "epsilon": 1e-5}),
        ("norm_cfg", {"type": nn.LocalResponseNorm}),
        ("norm_cfg", {"type": nn.Linear, "out_features": 8}),
        ("norm_cfg", {"type": "NoSuchNorm"}),
        ("norm_cfg", {"type": "no.such.Norm"}),
        ("norm_cfg", {"type": 3}),
        ("norm_cfg", {"type": torch.tensor}),
        ("act_cfg", {"type": "GELU", "approximate": "a lot"}),
        ("act_cfg", {"type": "GELU", "inplace": True}),
        ("act_cfg", {"type": nn.GLU}),
        ("act_cfg", {"type": nn.Softmax, "dim": 0}),
        ("act_cfg", {"type": nn.PReLU, "num_parameters": 5}),
        ("act_cfg", {"type": torch.relu}),
        ("act_cfg", {"type": "SwinBackbone"}),
    ],
)
def test_layers_that_cannot_be_used_are_refused_by_name(argument, cfg):
    with pytest.raises((TypeError, ValueError), match=argument):
        SwinBackbone(**BASE, **{argument: cfg})


# Scopes


@pytest.mark.parametrize("package", ["mmseg", "mmdet"])
def test_builds_under_the_scope_of_a_package(package):
    """From the package's own registry, mmengine's, and another package's."""
    pytest.importorskip(package)
    own = pytest.importorskip(f"{package}.registry").MODELS
    others = [MODELS, own, *(r for r in MODELS.children.values() if r is not own)]
    for registry in others:
        model = registry.build({"type": f"{package}.SwinBackbone", **BASE})
        assert type(model) is SwinBackbone


def test_packages_that_are_imported_later_know_us_by_their_scope():
    later = Registry("model", parent=MODELS, scope="later")
    hooks = Registry("hook", parent=HOOKS, scope="later")
    try:
        assert later.get("later.SwinBackbone") is SwinBackbone
        assert later.get("SwinBackbone") is SwinBackbone
        ours = [n for n, h in HOOKS.module_dict.items() if h.__module__.startswith("swin_backbone")]
        assert ours
        assert all(hooks.get(f"later.{name}") is HOOKS.get(name) for name in ours)
        assert later.get("later.BN2d") is None, "not all that mmengine's registry has is ours"
    finally:
        MODELS.children.pop("later")
        HOOKS.children.pop("later")
