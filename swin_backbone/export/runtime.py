"""Running exported files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..preprocessing import Preprocessing
from .card import KEY, ModelCard
from .formats import INPUT


class ExportedModel:
    """An exported file, ready to run.

    Args:
        card: what the file says about itself.
        run: from images to the list of outputs.
    """

    def __init__(self, card: ModelCard, run: Callable[[Tensor], Sequence[Tensor]]):
        self.card = card
        self._run = run

    def __call__(self, images: Tensor) -> list[Tensor]:
        """(B, channels, H, W) float32, normalised as the card says, to the outputs."""
        with torch.no_grad():
            return list(self._run(images))

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, channels, H, W) RGB of 0 to 255, of any dtype, to what the model takes."""
        card = self.card
        return Preprocessing(card.mean, card.std, card.channels).normalise(pixels)


def load(path: str | Path) -> ExportedModel:
    """Load a file that :func:`swin_backbone.export.write_program` wrote.

    Loading an AOTInductor file executes machine code in it; take such files only from people you
    trust.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"exported model {str(path)!r} is not a file")
    if path.suffix == ".onnx":
        return _load_onnx(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is neither an .onnx nor a .pt2 file")
    with zipfile.ZipFile(path) as archive:
        compiled = any("aotinductor" in name for name in archive.namelist())
    return _load_aot_inductor(path) if compiled else _load_torch_export(path)


def _load_onnx(path: Path) -> ExportedModel:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes derive from Exception alone
        raise ValueError(f"{path} is no model that onnxruntime can load: {error}") from error
    metadata = session.get_modelmeta().custom_metadata_map

    def run(images: Tensor) -> list[Tensor]:
        outputs = session.run(None, {INPUT: images.contiguous().numpy()})
        return [torch.from_numpy(output) for output in outputs]

    return ExportedModel(ModelCard.from_metadata(metadata, path), run)


def _load_torch_export(path: Path) -> ExportedModel:
    extra = {KEY: ""}
    module = torch.export.load(path, extra_files=extra).module()
    metadata = {KEY: extra[KEY]} if extra[KEY] else {}
    return ExportedModel(ModelCard.from_metadata(metadata, path), _listing(module))


def _load_aot_inductor(path: Path) -> ExportedModel:
    from torch._inductor import aoti_load_package

    package = aoti_load_package(str(path))
    return ExportedModel(ModelCard.from_metadata(package.get_metadata(), path), _listing(package))


def _listing(model: Callable) -> Callable[[Tensor], Sequence[Tensor]]:
    def run(images: Tensor) -> Sequence[Tensor]:
        outputs = model(images)
        return [outputs] if isinstance(outputs, Tensor) else outputs

    return run
