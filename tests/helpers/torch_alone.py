"""What people do with the backbone where torch is all there is; run as a script.

    python torch_alone.py FOLDER [--hide]
    python torch_alone.py FOLDER --write

FOLDER holds ``run.pth``, a checkpoint that mmengine wrote; ``--write`` has it do that. The results
are printed as JSON.
``--hide`` makes every other package than those that torch and the core need look uninstalled.
"""

import importlib
import json
import pkgutil
import re
import sys
import time
import types
from importlib.machinery import PathFinder
from pathlib import Path

#: What torch needs, at most, and what the core needs beside it.
NEEDED = {
    *("torch", "torchgen", "functorch", "typing_extensions", "sympy", "mpmath", "networkx"),
    *("jinja2", "markupsafe", "fsspec", "numpy", "nvidia", "cuda"),
    *("filelock", "packaging", "safetensors", "swin_backbone"),
}
#: What importing the core must not import, installed or not.
FOREIGN = {
    *("mmengine", "mmcv", "mmseg", "mmdet", "mmpretrain", "cv2", "PIL", "triton", "transformers"),
    *("torchvision", "timm", "onnx", "matplotlib", "pyarrow", "scipy", "huggingface_hub"),
}

SMALL = {"embed_dims": 8, "depths": (1, 2), "num_heads": (1, 2), "out_indices": (0, 1)}
SMALL |= {"strides": (4, 2), "window_size": 2}


class Hiding(PathFinder):
    """Finds what is needed, and the standard library."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        first = fullname.split(".")[0]
        if first in NEEDED or first in sys.stdlib_module_names or first.startswith("_"):
            return PathFinder.find_spec(fullname, path, target)
        return None


def hide():
    builtin = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") in (
        "BuiltinImporter", "FrozenImporter")]  # fmt: skip
    sys.meta_path[:] = [*builtin, Hiding]


def write_run(path):
    """A checkpoint of a whole model as mmengine's runner writes it; its backbone is returned."""
    import torch
    from mmengine.logging import MessageHub

    from swin_backbone import SwinBackbone

    torch.manual_seed(1)
    model = SwinBackbone(**SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    hub = MessageHub("of a run")
    for loss in (0.5, 0.25):
        hub.update_scalar("train/loss", loss)
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "meta": {}, "message_hub": hub.state_dict()}, path)
    return model.eval()


def refusal(act):
    """The error of what is refused, as one text."""
    try:
        act()
    except Exception as error:  # whatever it is, the test looks at it
        return f"{type(error).__name__}: {error}"
    return "no error"


def main(folder, hidden):
    if hidden:
        hide()
    import torch

    torch.set_num_threads(1)
    before, started = set(sys.modules), time.perf_counter()
    import swin_backbone

    found = {"seconds": time.perf_counter() - started}
    new = {name.split(".")[0] for name in set(sys.modules) - before}
    found["foreign"] = sorted(new & FOREIGN)
    found |= use(torch, swin_backbone, folder)
    found["modules"] = {name: failure(name) for name in core_modules(swin_backbone)}
    found["foreign afterwards"] = sorted({n.split(".")[0] for n in sys.modules} & (FOREIGN))
    print(json.dumps(found))


def core_modules(package):
    """All modules but those that plug into OpenMMLab or serve its models, commands, of which the
    one entry says what to install, and those that need a GPU's compiler."""
    names = [module.name for module in pkgutil.walk_packages(package.__path__, "swin_backbone.",
                                                             lambda name: None)]  # fmt: skip
    served = r"openmmlab|inference\.(painters|predictors|finders|uploads|hosts)|own_data"
    others = rf"\.({served}|ops\.triton|cli\.(?!entry))"
    return [name for name in names if not re.search(others, name)]


def failure(module):
    """Why a module cannot be imported, or ``None``."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"{type(error).__name__}: {error}"
    return None


def use(torch, swin_backbone, folder):
    from swin_backbone.checkpoints import convert_checkpoint, read_checkpoint
    from swin_backbone.inference.features import Extractor, ExtractorSettings

    found = {}
    torch.manual_seed(0)
    run = str(folder / "run.pth")

    # The class
    model = swin_backbone.SwinBackbone(**SMALL)
    model.init_weights()
    model(torch.randn(2, 3, 21, 30))[-1].sum().backward()
    found["bases"] = [base.__module__ for base in type(model).__mro__[:3]]
    found["gradients"] = all(
        p.grad is not None for n, p in model.named_parameters() if "norm0" not in n
    )

    # Weights, by each way in
    init_cfg = {"type": "mmengine.Pretrained", "checkpoint": run, "prefix": "backbone."}
    named = {"type": "mmseg.SwinBackbone", **SMALL}
    models = {
        "init_cfg": swin_backbone.create({**named, "init_cfg": init_cfg}),
        "create": swin_backbone.create({"model": {"backbone": named}}, run),
        "load_state_dict": swin_backbone.SwinBackbone(**SMALL),
    }
    content = read_checkpoint(run)
    backbone = {
        key.removeprefix("backbone."): value
        for key, value in content["state_dict"].items()
        if key.startswith("backbone.")
    }
    models["load_state_dict"].load_state_dict(backbone)
    models |= through_the_hub(swin_backbone, models["create"], folder)
    image = torch.linspace(-1, 1, 3 * 21 * 30).view(1, 3, 21, 30)
    with torch.no_grad():
        found["maps"] = {n: m.eval()(image)[-1].flatten().tolist() for n, m in models.items()}
    less = {name: value for name, value in backbone.items() if name != "norm1.weight"}
    swin_backbone.SwinBackbone(**SMALL).load_state_dict(less, strict=False)  # and warns
    history = content["message_hub"]["log_scalars"]["train/loss"]
    found["history"] = [float(value) for value in history.values]
    theirs, _ = convert_checkpoint(content, "timm")
    found["converted"] = len(theirs)
    by_name = swin_backbone.create("swinv2_tiny_window8", arch=None, depths=(1, 1, 1, 1))
    found["by name"] = by_name.version
    found["report"] = str(models["create"].checkpoint_report).splitlines()[0]

    # Features and export
    config = folder / "features.pth"
    torch.save(swin_backbone.create("tiny").state_dict(), config)
    extractor = Extractor(ExtractorSettings("tiny", str(config), stages=(0, 3)))
    import numpy

    (features,) = extractor([numpy.zeros((33, 40, 3), "uint8")])
    found["features"] = [list(each.shape) for each in features]
    found["export"] = export(torch, models["create"], image, folder)
    found["accelerate"] = type(swin_backbone.accelerate(models["create"])).__name__

    # What needs OpenMMLab says so
    cfg = folder / "config.py"
    cfg.write_text("model = dict(backbone=dict(type='SwinBackbone'))\n")
    init_cfg = {"type": "Pretrained", "checkpoint": "torchvision://swin_t"}
    found["refusals"] = {
        "config": refusal(lambda: swin_backbone.create(cfg)),
        "no config": refusal(lambda: swin_backbone.create("missing.py")),
        "norm": refusal(lambda: swin_backbone.SwinBackbone(**SMALL, norm_cfg={"type": "BN1d"})),
        "address": refusal(swin_backbone.SwinBackbone(**SMALL, init_cfg=init_cfg).init_weights),
        "init type": refusal(
            lambda: swin_backbone.SwinBackbone(
                **SMALL, init_cfg={"type": "elsewhere.Pretrained", "checkpoint": "x"}
            )
        ),
        "model": refusal(lambda: swin_backbone.create({"type": "SwinClassifierBackbone"})),
        "images": refusal(lambda: __import__("swin_backbone.images")),
        "push": refusal(lambda: model.push_to_hub("me/swin")),
        "hub": refusal(lambda: swin_backbone.SwinBackbone.from_pretrained("me/swin")),
    }
    return found


def through_the_hub(swin_backbone, model, folder):
    """A model's copies of a folder, and of the hub, for which a module stands that has functions of
    huggingface_hub."""
    model.save_pretrained(folder / "saved")
    copies = {"folder": swin_backbone.SwinBackbone.from_pretrained(folder / "saved")}
    hub, there = types.ModuleType("huggingface_hub"), folder / "hub"

    class Api:
        def __init__(self, token):
            pass

        def create_repo(self, name, private, exist_ok):
            there.mkdir()

        def upload_folder(self, repo_id, folder_path):
            for path in Path(folder_path).iterdir():
                (there / path.name).write_bytes(path.read_bytes())
            return types.SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    hub.HfApi = Api
    hub.hf_hub_download = lambda name, filename, revision=None: str(there / filename)
    sys.modules["huggingface_hub"] = hub
    try:
        model.push_to_hub("me/swin")
        copies["hub"] = swin_backbone.SwinBackbone.from_pretrained("me/swin")
    finally:
        del sys.modules["huggingface_hub"]
    return copies


def export(torch, model, image, folder):
    """The largest difference between a model and its exported program."""
    from swin_backbone.inference.export import trace

    if not hasattr(torch.fx.experimental._config, "backed_size_oblivious"):
        return None
    program = trace(model).module()
    other = torch.nn.functional.interpolate(image, (26, 19)).repeat(2, 1, 1, 1)
    with torch.no_grad():
        return max(
            (a - b).abs().max().item() for a, b in zip(program(other), model(other), strict=True)
        )


if __name__ == "__main__":
    if "--write" in sys.argv:
        write_run(Path(sys.argv[1]) / "run.pth")
    else:
        main(Path(sys.argv[1]), "--hide" in sys.argv)
