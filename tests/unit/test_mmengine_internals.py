"""What mmengine and mmseg do not document: each interface missing, and what is done then."""

from types import SimpleNamespace

import mmengine
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.registry import STRATEGIES, Registry
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_loading
from torch import nn

from swin_backbone.acceleration import mmseg_internals
from swin_backbone.checkpoints import CheckpointError
from swin_backbone.openmmlab import mmengine_internals as internals
from swin_backbone.openmmlab.served_ops import torchvision_internals


def test_here_all_of_it_is_there():
    """Or the tests below would only show what is done instead."""
    assert mmengine.__version__ in internals.TESTED
    for name in ("FSDPStrategy", "DDPStrategy"):
        assert internals.strategy(name).__name__ == name
    assert hasattr(Registry("test"), "_add_child")
    assert hasattr(mmengine_loading, "load_from_http")
    assert internals.SAVES_BY_STEP
    assert hasattr(CheckpointHook, "_save_checkpoint_with_step")


def test_without_its_strategy_only_using_it_is_an_error(monkeypatch):
    monkeypatch.setattr(STRATEGIES, "get", lambda name: None)
    strategy = type("Ours", (internals.strategy("FSDPStrategy"),), {})
    with pytest.raises(RuntimeError, match=f"{mmengine.__version__} has no FSDPStrategy"):
        strategy(model_wrapper={})


class OtherRegistry:
    """One that tells its parent of itself in another way."""

    def __init__(self, name, parent=None, scope=None):
        self.name, self.children = name, {}
        if parent is not None:
            parent.children[scope] = self


@pytest.mark.parametrize("kind", [Registry, OtherRegistry])
def test_a_registry_tells_of_its_children(monkeypatch, kind):
    monkeypatch.setattr(OtherRegistry, "__init__", OtherRegistry.__init__)  # put back afterwards
    parent, other = kind("parent", scope="a"), kind("other", scope="b")
    before = kind("before", parent=parent, scope="c")
    told = []
    internals.tell_of_children(parent, told.append)
    child = kind("child", parent=parent, scope="d")
    kind("another's", parent=other, scope="e")
    assert told == [child]
    assert list(parent.children.values()) == [before, child]


RUNNERS = {
    "as it is": SimpleNamespace(_load_from="a.pth", _resume=True, cfg=Config({"load_from": "b"})),
    "another": SimpleNamespace(cfg=Config({"load_from": "a.pth", "resume": True})),
}


@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
def test_what_a_runner_was_told(runner):
    assert internals.loaded_from(runner) == "a.pth"
    assert internals.is_resuming(runner)


def test_a_runner_that_was_told_nothing():
    for runner in (SimpleNamespace(cfg=Config({})), SimpleNamespace(), RUNNERS["as it is"]):
        if runner is RUNNERS["as it is"]:
            runner = SimpleNamespace(_load_from=None, _resume=False, cfg=None)
        assert internals.loaded_from(runner) is None
        assert not internals.is_resuming(runner)


@pytest.mark.parametrize("known", [True, False])
def test_statistics_of_histories(monkeypatch, known):
    if not known:
        monkeypatch.setattr(internals, "HistoryBuffer", object)
    assert {"mean", "max", "min", "current"} <= internals.history_statistics()
    if known:
        assert internals.history_statistics() == set(HistoryBuffer()._statistics_methods)


@pytest.fixture
def schemes(monkeypatch):
    """mmengine's loaders by prefix, which are put back afterwards."""
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))


def test_catalogues_that_fetch_in_another_way_are_refused(monkeypatch, schemes):
    monkeypatch.delattr(mmengine_loading, "load_from_http")
    internals.fetch_catalogues_with(lambda *_, **__: pytest.fail("not reached"))
    for prefix in internals.CATALOGUES:
        with pytest.raises(CheckpointError, match=f"{prefix}x cannot be read safely"):
            CheckpointLoader.load_checkpoint(f"{prefix}x")


def test_another_order_of_saving_is_told_of(monkeypatch):
    said = []
    monkeypatch.setattr(internals, "print_log", lambda text, *_: said.append(text))
    internals.warn_of_order_of_saving()
    assert not said
    monkeypatch.setattr(internals, "SAVES_BY_STEP", False)
    internals.warn_of_order_of_saving()
    assert "files are written whole" in said[0]


def test_label_maps_are_stacked_as_the_head_stacks_them():
    maps = [torch.randint(5, (1, 4, 6)) for _ in range(3)]
    samples = [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=labels)) for labels in maps]
    assert torch.equal(mmseg_internals.stacked_labels(nn.Identity(), samples), torch.stack(maps))
    head = nn.Identity()
    head._stack_batch_gt = lambda given: given[0].gt_sem_seg.data[None] + 1
    assert torch.equal(mmseg_internals.stacked_labels(head, samples), maps[0][None] + 1)
    assert mmseg_internals.methods_behind_losses(nn.Identity) == ("loss_by_feat",)


def test_gradients_of_torchvisions_ops_without_ops_for_them(monkeypatch):
    pytest.importorskip("torchvision")
    features = torch.rand(2, 3, 9, 11)
    rois = torch.tensor([[0, 1.0, 1.0, 6.0, 7.0], [1, 0.5, 2.0, 9.0, 8.0]])
    arguments = (torch.rand(2, 3, 4, 4), rois, features.shape, 1.0, 2, True)
    weight, offset = torch.rand(4, 3, 3, 3), torch.rand(2, 18, 9, 11)
    operands = (features, weight, offset, features.new_zeros(2, 1), torch.zeros(4))
    geometry = (1, 1, 1, 1, 1, 1, 1, 1)
    deformed = (torch.rand(2, 4, 9, 11), operands, geometry, False)
    own = [
        torchvision_internals.roi_align_gradient(*arguments),
        *torchvision_internals.deform_conv2d_gradients(*deformed),
    ]
    asked = []
    monkeypatch.setattr(torchvision_internals, "private_operator", asked.append)
    again = [
        torchvision_internals.roi_align_gradient(*arguments),
        *torchvision_internals.deform_conv2d_gradients(*deformed),
    ]
    assert asked == ["_roi_align_backward", "_deform_conv2d_backward"]
    for one, other in zip(own, again, strict=True):
        torch.testing.assert_close(one, other)
    assert all(one.abs().sum() > 0 for one in own[:4])
