"""Small detectors of this project's configs, and steps of their training."""

import torch
from benchmarking import detectors
from mmengine.registry import MODELS, DefaultScope

from .paths import ROOT
from .small_detector import small_detector


def build(name, layers=2):
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    if name in detectors.SEMANTIC:
        from mmseg.utils import register_all_modules as register_all_of_mmseg

        register_all_of_mmseg(init_default_scope=False)
    cfg = small_detector(ROOT / "configs" / detectors.CONFIGS[name], layers)
    with DefaultScope.overwrite_default_scope("mmseg" if name in detectors.SEMANTIC else "mmdet"):
        model = MODELS.build(cfg.model)
    model.init_weights()
    for name, parameter in model.named_parameters():
        if name.endswith("sampling_offsets.bias"):
            # As initialised, points lie on pixels, where the gradient of a bilinear sample jumps:
            # a rounding decides which one it is.
            parameter.data += 0.25 + 0.1 * torch.rand_like(parameter)
    return model


def step(model, images, samples, seed):
    torch.manual_seed(seed)
    model.zero_grad()
    losses = model.loss(images, samples)
    values = [sum(v) if isinstance(v, list) else v.mean() for k, v in losses.items() if "loss" in k]
    sum(values).backward()
    return torch.stack([value.detach() for value in values])


def assert_same_gradients(model, stock, atol):
    """But for the order in which they are added."""
    for (name, p), other in zip(model.named_parameters(), stock.parameters(), strict=True):
        assert (p.grad is None) == (other.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, other.grad, rtol=1e-4, atol=atol, msg=name)


def counted(forward, calls):
    def call(*inputs, **others):
        calls.append(len(inputs))
        return forward(*inputs, **others)

    return call
