"""Random architectures through random chains of layouts, and random damage to files."""

import contextlib
import io
import os

import pytest
import torch
from helpers.peers import randomise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import CheckpointError, read_checkpoint, to_ours, to_theirs
from swin_backbone.checkpoints.layouts import EXPORTS, Windows

FUZZ = settings(
    max_examples=int(os.environ.get("SWIN_FUZZ_EXAMPLES", 50)),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@st.composite
def architectures(draw):
    stages = draw(st.integers(1, 4))
    heads = [draw(st.sampled_from([1, 2, 4])) for _ in range(stages)]
    version = draw(st.sampled_from(["v1", "v2"]))
    options = {
        "version": version,
        "embed_dims": 4 * draw(st.integers(1, 3)),
        "depths": tuple(draw(st.integers(1, 3)) for _ in range(stages)),
        "num_heads": tuple(heads),
        "window_size": draw(st.integers(2, 5)),
        "out_indices": tuple(range(stages)),
        "qkv_bias": draw(st.booleans()),
        "patch_norm": True,
        "strides": (4, 2, 2, 2),
    }
    if version == "v2":
        options["extra_norm_every_n_blocks"] = draw(st.integers(0, 2))
    return options


@st.composite
def chains(draw):
    """An architecture and libraries that have its version."""
    options = draw(architectures())
    libraries = sorted(name for name, version in EXPORTS if version == options["version"])
    if not options["qkv_bias"] or options.get("extra_norm_every_n_blocks"):
        libraries.remove("torchvision")  # it has no such models
    return options, draw(st.lists(st.sampled_from(libraries), min_size=1, max_size=5))


def make(options):
    model = SwinBackbone(**options).eval()
    torch.manual_seed(0)
    randomise(model)
    return model


@FUZZ
@given(chains())
def test_chains_of_layouts_change_nothing(chain):
    """Tensors are the same bit for bit, those excepted that some library has no place for."""
    options, libraries = chain
    model = make(options)
    tensors = model.state_dict()
    windows = Windows((options["window_size"],) * 2, ((0, 0),) * len(options["depths"]))
    for library in libraries:
        tensors, _ = to_theirs(to_ours(tensors).tensors, library, windows)
    other = SwinBackbone(**options).eval()
    other.load_state_dict(tensors, strict=False)
    report = other.checkpoint_report
    assert not report.unexpected
    assert not report.interpolated
    assert all(key.startswith("norm") for key in report.missing)
    before, after = model.state_dict(), other.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in report.loaded)
    assert sorted([*report.loaded, *report.missing]) == sorted(before)
    for index in model.out_indices:  # whether or not the norms were lost on the way
        setattr(other, f"norm{index}", getattr(model, f"norm{index}"))
    images = torch.randn(1, 3, 37, 29)
    with torch.no_grad():
        for a, b in zip(model(images), other(images), strict=True):
            assert torch.equal(a, b)


@FUZZ
@given(chains(), st.randoms(use_true_random=False))
def test_a_renamed_key_is_an_error_and_changes_nothing(chain, random):
    options, libraries = chain
    model = make(options)
    windows = Windows((options["window_size"],) * 2, ((0, 0),) * len(options["depths"]))
    tensors, _ = to_theirs(model.state_dict(), libraries[-1], windows)
    needed = [key for key in tensors if "block" in key and not key.endswith(("index", "table"))]
    needed += [key for key in tensors if "block" in key and "bias_table" in key]
    if not needed:  # torchvision's names are numbers
        needed = [key for key in tensors if "attn.proj" in key]
    key = random.choice(needed)
    tensors[f"{key}.renamed"] = tensors.pop(key)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="renamed"):
        model.load_state_dict(tensors, strict=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@FUZZ
@given(
    damage=st.binary(max_size=300),
    where=st.floats(0, 1),
    kind=st.sampled_from(["pth", "safetensors"]),
    cut=st.booleans(),
)
def test_damaged_files_are_errors_and_never_half_read(damage, where, kind, cut, tmp_path):
    """Bytes overwritten, cut off or added at random: an error of ours, or every tensor."""
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    state = {"a.weight": torch.arange(12.0), "b.bias": torch.ones(3)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue() if kind == "pth" else safetensors.save(state)
    start = int(where * len(content))
    rest = content[start + len(damage) :] if cut else content[start:]
    path = tmp_path / f"damaged.{kind}"
    path.write_bytes(content[:start] + damage + rest)
    with contextlib.suppress(CheckpointError):
        read = read_checkpoint(path)
        assert isinstance(read, dict)
