"""Accelerated against untouched encoders of one version of a library: a line of JSON a comparison.

    python tests/helpers/parity_of_a_version.py LIBRARY FOLDER

FOLDER holds the library, for this process alone; it goes before what is installed.
"""

import copy
import json
import sys
from importlib import metadata, util
from pathlib import Path

SIZES = [(64, 64), (72, 40), (92, 60)]
#: timm before 1.0 wants maps of even sides, and of whole windows in V2.
OF_OLD_TIMM = {"v1": [(64, 64), (72, 40), (88, 56)], "v2": [(64, 64), (96, 32), (32, 128)]}


def import_from(library, folder):
    """The library's version."""
    sys.path.insert(0, folder)
    version = metadata.version(library)
    if library == "torchvision":
        # Its compiled operators are for one version of torch, and not needed: its models are
        # imported without what registers those.
        sys.modules[library] = util.module_from_spec(util.find_spec(library))
    module = __import__(library)
    assert Path(next(iter(module.__path__))) == Path(folder, library)
    return version


def maps_of(library, model, images):
    """Maps of all stages; timm's before 1.0 had no method for them."""
    from helpers.peers import PEERS

    if library != "timm":
        return PEERS[library].maps(model, images)
    x, maps = model.patch_embed(images), []
    for layer in model.layers:
        x = layer(x)
        maps.append(x.permute(0, 3, 1, 2))
    return maps


def differentiate(library, model, images):
    """Maps and the gradients of all parameters, flat."""
    import torch

    maps = maps_of(library, model, images)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(m.shape, generator=generator, dtype=m.dtype) for m in maps]
    sum((m * w).sum() for m, w in zip(maps, weights, strict=True)).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([m.detach().flatten() for m in maps]), torch.cat(gradients)


def compare(library, version, size, dtype):
    import torch

    import swin_backbone
    from helpers.errors import relative_error
    from helpers.peers import make_theirs

    torch.manual_seed(0)
    model = make_theirs(library, version, image_size=size).to(dtype)
    fast = copy.deepcopy(model)
    report = swin_backbone.accelerate(fast)
    images = torch.randn(2, 3, *size, dtype=dtype)
    found, expected = (differentiate(library, one, images) for one in (fast, model))
    done = [len(row.modules) for row in report.rows if row.what and row.kind.startswith("Swin")]
    return {
        "maps": relative_error(found[0], expected[0]),
        "gradients": relative_error(found[1], expected[1]),
        "blocks": max(done, default=0),
        "left": [row.reason for row in report.left],
    }


def main():
    library, folder = sys.argv[1:]
    number = import_from(library, folder)
    import torch

    for version in ("v1", "v2"):
        for size in OF_OLD_TIMM[version] if library == "timm" else SIZES:
            for dtype in (torch.float32, torch.float64):
                row = {"library": library, "number": number, "version": version, "size": size}
                row |= {"dtype": str(dtype), **compare(library, version, size, dtype)}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
