"""What whole models give: logits, masks, boxes, depths; and what they want beside images."""

import re

import torch
from torch import Tensor

from .models_with_swin import CASES, IMAGE, maps_of

#: Models whose blocks are functions of a graph, of which there are no modules to find.
GRAPHS = ("torchvision, extractor",)
MODELS = tuple(name for name in CASES if name not in GRAPHS)
#: Models of images of one size: timm's, and those that put masked patches together again.
ONE_SIZE = re.compile("timm|TIMM|Timm|OmDet|MaskedImageModeling|mmseg, positions")
#: Of the first windows divide all maps, those of the others are filled up.
SIZES = ((IMAGE, IMAGE), (72, 40), (92, 60))

IDS = torch.tensor([[2, 5, 6, 3], [2, 7, 8, 3]])
TEXT = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
ANSWER = {"decoder_input_ids": IDS}
#: Two classes of each of two images, and a task.
OMDET = {"classes_input_ids": IDS.repeat(2, 1), "tasks_input_ids": IDS}
OMDET |= {
    f"{what}_attention_mask": torch.ones_like(OMDET[f"{what}_input_ids"])
    for what in ("classes", "tasks")
}
OMDET |= {"classes_structure": torch.tensor([2, 2])}
BESIDE = {
    "SwinModel with positions": {"interpolate_pos_encoding": True},
    "OneFormer": {"task_inputs": torch.arange(2 * 77).reshape(2, 77) % 9},
    "GroundingDINO": TEXT,
    "MMGroundingDINO": TEXT,
    "OmDetTurbo": OMDET,
    "encoder and decoder": ANSWER,
    "Donut": ANSWER,
    "image and text": TEXT,
}


def sizes_of(name):
    """Sizes of images that a model takes."""
    return SIZES[:1] if ONE_SIZE.search(name) else SIZES


def outputs_of(name):
    """A function of a case's model and images: its outputs that depend on them, as a list."""
    if name == "DPT":  # transformers runs it with Swin V2 alone: of V1 the maps
        return maps_of

    def run(model, images):
        if name.endswith("SimMIM"):
            return list(model(images, masked(images).to(images)))
        kwargs = dict(BESIDE.get(name, {}))
        if "MaskedImageModeling" in name:
            kwargs["bool_masked_pos"] = masked(images).flatten(1)
        if type(model).__module__.startswith("transformers"):
            return differentiable(model(pixel_values=images, **kwargs))
        return differentiable(model(images))

    return run


def masked(images):
    """Every third patch, bool (B, rows, columns)."""
    patches = images[:, 0, ::4, ::4]
    return (torch.arange(patches.numel()) % 3 == 0).reshape(patches.shape)


def differentiable(output):
    """The tensors of an output that have gradients. Texts' masks are infinite in logits: zero."""
    if isinstance(output, Tensor):
        return [output.masked_fill(output.isinf(), 0)] if output.requires_grad else []
    if not isinstance(output, (dict, list, tuple)):
        return []
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in differentiable(part)]
