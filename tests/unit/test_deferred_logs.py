"""What mmengine logs of a step, read when somebody looks at it, beside mmengine's own logging."""

import copy
import uuid
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.waits import waits

pytest.importorskip("mmengine")

from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from swin_backbone.openmmlab.fast_data.deferred_logs import DeferredRuntimeInfoHook, Ledger


class Outputs:
    """What a hook sees of a runner: the message hub, where training is, data without a name."""

    def __init__(self):
        self.message_hub = MessageHub(f"hub-{uuid.uuid4().hex}")
        self.hook = DeferredRuntimeInfoHook()
        self.epoch = self.iter = self.max_epochs = self.max_iters = 0
        self.train_dataloader = SimpleNamespace(dataset=[])

    def step(self, **outputs):
        self.hook.after_train_iter(self, 0, outputs=outputs)

    def history(self, name):
        return self.message_hub.get_scalar(f"train/{name}")


def test_losses_are_read_when_they_are_looked_at(monkeypatch):
    reads = []
    monkeypatch.setattr(Ledger, "read", lambda self, read=Ledger.read: reads.append(read(self)))
    run, loss = Outputs(), torch.zeros(())
    values = [0.5, float("nan"), 3.0, -1.0]
    for value in values:
        loss.fill_(value)  # the same memory, as of a graph that is replayed
        run.step(same=loss, loss=loss.clone().requires_grad_(), rate=value, double=2 * loss)
    assert not reads
    for name in ("same", "loss", "rate"):
        np.testing.assert_array_equal(run.history(name).data[0], values)
    np.testing.assert_array_equal(run.history("double").data[0], 2 * np.array(values))
    assert run.history("loss").current() == -1.0
    assert run.history("loss").mean(2) == 1.0
    assert run.history("loss").max(2) == 3.0
    assert run.history("loss").min(2) == -1.0
    assert run.history("loss").statistics("mean", 2) == 1.0
    assert np.isnan(run.history("loss").mean())


@pytest.mark.parametrize("look", ["current", "mean", "min", "max"])
def test_a_history_is_mmengines_whatever_is_asked(look):
    own, expected = Outputs(), HistoryBuffer()
    rng = np.random.default_rng(9)
    for value in rng.normal(size=30).astype(np.float32):
        own.step(loss=torch.tensor(value))
        expected.update(float(value))
        if rng.random() < 0.3:
            assert getattr(own.history("loss"), look)() == getattr(expected, look)()
        if rng.random() < 0.3:
            own.history("loss").update(2.0, 3)
            expected.update(2.0, 3)
    for found, other in zip(own.history("loss").data, expected.data, strict=True):
        np.testing.assert_array_equal(found, other)
    copied = copy.deepcopy(own.history("loss"))
    assert type(copied) is HistoryBuffer
    np.testing.assert_array_equal(copied.data[0], expected.data[0])
    with pytest.raises(TypeError, match="int or float"):
        own.history("loss").update("1")


def test_a_history_keeps_no_more_than_its_length():
    run = Outputs()
    run.step(loss=1.0)
    run.history("loss").max_length = 4
    for value in range(10):
        run.step(loss=torch.tensor(float(value)))
    np.testing.assert_array_equal(run.history("loss").data[0], [6, 7, 8, 9])


class OwnWrapper(OptimWrapper):
    """Looks at the norm itself."""

    def _clip_grad(self):
        self.seen = float(self.clip_func(self.optimizer.param_groups[0]["params"], 1.0))


def clipped(kind=OptimWrapper, deferred=True, **clip):
    """Five steps of a layer, as mmengine's loop calls them: run, weight, and waits of the last."""
    run = Outputs()
    torch.manual_seed(0)
    layer, hook = nn.Linear(4, 3), run.hook if deferred else RuntimeInfoHook()
    run.optim_wrapper = kind(torch.optim.SGD(layer.parameters(), 0.1), clip_grad=clip)
    run.optim_wrapper.message_hub = run.message_hub
    run.optim_wrapper.initialize_count_status(layer, 0, 5)
    before = run.optim_wrapper.clip_func
    hook.before_train(run)

    def step():
        loss = layer(torch.randn(2, 4)).square().sum()
        run.optim_wrapper.update_params(loss)
        hook.after_train_iter(run, 0, outputs={"loss": loss})

    for _ in range(4):
        step()
    waited = waits(step)
    hook.after_train(run)
    assert run.optim_wrapper.clip_func is before
    return run, layer.weight, waited


@pytest.mark.parametrize("clip", [{"max_norm": 0.5}, {"max_norm": 0.2, "norm_type": 1}], ids=str)
def test_norms_are_read_when_they_are_looked_at(clip):
    """Losses and norms of five steps, and weights, to the bit; mmengine waits for both."""
    stock, weight, waited = clipped(deferred=False, **clip)
    found, other, none = clipped(**clip)
    assert (waited, none) == (2, 0)
    assert torch.equal(weight, other)
    for name in ("grad_norm", "loss"):
        expected, values = (run.history(name).data[0] for run in (stock, found))
        np.testing.assert_array_equal(values, expected)
        assert len(values) == 5


def test_norms_that_nobody_hands_over():
    """Clipping by value has none; a wrapper that clips in its own way gets its own."""
    by_value, _, waited = clipped(type="value", clip_value=0.1)
    assert (by_value.history("loss").data[0].size, waited) == (5, 0)
    assert "train/grad_norm" not in by_value.message_hub.log_scalars
    own, *_ = clipped(OwnWrapper, max_norm=1.0)
    assert own.optim_wrapper.seen > 0


def test_norms_of_several_optimizers():
    """Which mmengine writes into one history, in turn."""
    run, layers = Outputs(), nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2)})
    run.optim_wrapper = OptimWrapperDict(
        **{
            name: OptimWrapper(
                torch.optim.SGD(layer.parameters(), 0.1),
                clip_grad={"max_norm": 1.0},
            )
            for name, layer in layers.items()
        }
    )
    for wrapper in run.optim_wrapper.values():
        wrapper.message_hub = run.message_hub
    run.hook.before_train(run)
    norms = []
    for step in range(4):
        for name, layer in layers.items():
            run.optim_wrapper[name].zero_grad()
            (layer(torch.ones(1, 2)) * (step + 1)).sum().backward()
            grads = torch.cat([parameter.grad.flatten() for parameter in layer.parameters()])
            norms.append(grads.norm().item())
            run.optim_wrapper[name].step()
        run.hook.after_train_iter(run, step, outputs={})
    np.testing.assert_allclose(run.history("grad_norm").data[0], norms, rtol=1e-6)
