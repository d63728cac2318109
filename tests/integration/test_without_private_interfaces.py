"""A torch of which all that is not documented is missing: slower, and right."""

import inspect
import subprocess
import sys

import torch
from helpers.paths import ROOT

from swin_backbone import SwinBackbone

OPTIONS = {"embed_dims": 16, "depths": (2, 1), "num_heads": (1, 2), "strides": (4, 2),
           "out_indices": (0, 1), "drop_path_rate": 0.0}  # fmt: skip
KINDS = {"v1": {}, "v2": {"version": "v2"}}

#: Imports the package so that nothing of torch's own names is found, and runs models.
SCRIPT = """
import importlib, sys, types
from pathlib import Path

parts = ("swin_backbone", "swin_backbone.ops", "swin_backbone.ops.torch_internals")
for name in parts:  # only for as long as the one module is imported without the rest
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [str(Path(sys.argv[1]) / name.replace(".", "/"))]
choosing = importlib.import_module(parts[-1] + ".choosing")
choosing.find = lambda name: None
for name in parts:
    del sys.modules[name]

import torch
from swin_backbone import SwinBackbone
from swin_backbone.ops.torch_internals import FALLBACKS

saved = torch.load(sys.argv[2])
found = {}
for kind, (options, weights, images) in saved.items():
    model = SwinBackbone(**options)
    model.load_state_dict(weights)
    found[kind] = run(model, images)
torch.save((found, sorted(FALLBACKS)), sys.argv[3])
"""


def run(model, images):
    """Maps without gradients, maps with them, and the gradients."""
    with torch.no_grad():
        plain = model.eval()(images)
    maps = model.train()(images)
    sum(m.square().mean() for m in maps).backward()
    gradients = [p.grad for p in model.parameters()]
    return [m.detach() for m in (*plain, *maps)] + gradients


def test_results_do_not_depend_on_private_interfaces(tmp_path, script_environment):
    torch.manual_seed(0)
    models = {kind: SwinBackbone(**OPTIONS, **options) for kind, options in KINDS.items()}
    images = torch.randn(2, 3, 50, 70)
    torch.save(
        {
            kind: ({**OPTIONS, **KINDS[kind]}, model.state_dict(), images)
            for kind, model in models.items()
        },
        tmp_path / "models.pt",
    )
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("saved =", f"{inspect.getsource(run)}\nsaved =", 1))
    subprocess.run(
        [sys.executable, script, ROOT, tmp_path / "models.pt", tmp_path / "found.pt"],
        check=True,
        env={**script_environment, "SWIN_BACKBONE_WITHOUT": "openmmlab"},
    )
    found, fallbacks = torch.load(tmp_path / "found.pt")
    assert len(fallbacks) > 10  # of them all, not one was found
    for kind, model in models.items():
        for ours, theirs in zip(run(model, images), found[kind], strict=True):
            # float32 by other operators in another order; gradients are sums over all tokens.
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
