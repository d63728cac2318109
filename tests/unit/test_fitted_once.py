"""How often a checkpoint is fitted to the backbone that loads it, and that it is the same one."""

import pytest
import torch
from torch import nn

from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import CheckpointError, convert_checkpoint, loading

SMALL = {"embed_dims": 8, "depths": (2, 1), "num_heads": (1, 2), "strides": (4, 2),
         "out_indices": (0, 1)}  # fmt: skip


@pytest.fixture
def fits(monkeypatch):
    """Grows by one each time that tensors are fitted."""
    calls = []
    fit = loading.fit_state_dict

    def counted(tensors, target):
        calls.append(tensors)
        return fit(tensors, target)

    monkeypatch.setattr(loading, "fit_state_dict", counted)
    return calls


def backbone(**options):
    return SwinBackbone(**{**SMALL, **options})


def stock(model):
    """The weights as mmseg names and orders them."""
    return convert_checkpoint(model.state_dict(), "mmseg")[0]


def assert_same_weights(model, other):
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


WAYS = {
    "strictly": lambda model, tensors: model.load_state_dict(tensors),
    "not strictly": lambda model, tensors: model.load_state_dict(tensors, strict=False),
    "in another": lambda model, tensors: nn.ModuleDict({"backbone": model}).load_state_dict(
        {f"backbone.{key}": tensor for key, tensor in tensors.items()}
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", ["own", "mmseg"])
def test_loading_fits_once(fits, way, layout):
    source, model = backbone(), backbone()
    tensors = dict(source.state_dict()) if layout == "own" else stock(source)
    WAYS[way](model, tensors)
    assert len(fits) == 1
    assert_same_weights(model, source)
    assert not model.checkpoint_report.missing


def test_init_cfg_fits_once(fits, tmp_path):
    source = backbone()
    torch.save(stock(source), tmp_path / "weights.pth")
    model = backbone(init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "weights.pth")})
    model.init_weights()
    assert len(fits) == 1
    assert_same_weights(model, source)


def test_what_a_checkpoint_lacks_is_drawn_and_reported(fits, tmp_path):
    source = backbone(output_norms=False)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = backbone(init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "weights.pth")})
    model.init_weights()
    assert len(fits) == 1
    assert {key.split(".")[0] for key in model.checkpoint_report.missing} == {"norm0", "norm1"}
    assert_same_weights(model, source)


def test_strict_loading_refuses_before_anything_is_loaded(fits):
    model, before = backbone(), backbone()
    before.load_state_dict(model.state_dict())
    tensors = {key: value + 1 for key, value in model.state_dict().items() if "norm0" not in key}
    with pytest.raises(CheckpointError, match="norm0"):
        model.load_state_dict(tensors)
    assert_same_weights(model, before)


def test_others_are_fitted_while_one_is_known_to_be(fits):
    """What is said of one backbone holds for this one alone."""
    source, model, other = backbone(), backbone(), backbone()
    fitted, report = loading.fit_checkpoint(model, stock(source))
    with loading.already_fitted(model, report):
        other.load_state_dict(stock(source), strict=False)
        model.load_state_dict(fitted, strict=False)
    assert len(fits) == 2  # by hand, and of the other one
    assert model.checkpoint_report is report
    assert_same_weights(model, source)
    assert_same_weights(other, source)
    model.load_state_dict(stock(source), strict=False)
    assert len(fits) == 3  # it is over
