"""Running exported files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...extras import from_extra
from ...ops.geometry.valid_sizes import check_valid_sizes
from ...ops.torch_internals.packaging import load_package
from ..preprocessing import Preprocessing
from .card import KEY, ModelCard


class ExportedModel:
    """An exported file, ready to run.

    Args:
        card: what the file says about itself.
        run: from the inputs that the card names to the list of outputs.
    """

    def __init__(self, card: ModelCard, run: Callable[..., Sequence[Tensor]]):
        self.card = card
        self._run = run

    def __call__(self, images: Tensor, valid_sizes: Tensor | None = None) -> list[Tensor]:
        """Run the model.

        Args:
            images: (B, channels, H, W) float32, normalised as the card says.
            valid_sizes: (B, 2) integers >= 1, for a model with ``mask_padding``: rows and columns
                of each image in pixels; it lies at the top left, the rest is padding. ``None``:
                all of it is image.

        Raises:
            ValueError: if ``valid_sizes`` has another shape, a number is out of range, or the
                model has no such input.
            TypeError: if ``valid_sizes`` is not of integers.
        """
        inputs = [images]
        if "valid_sizes" in self.card.inputs:
            inputs.append(_checked_sizes(images, valid_sizes))
        elif valid_sizes is not None:
            raise ValueError("valid_sizes needs a model that was exported with mask_padding=True")
        with torch.no_grad():
            return list(self._run(*inputs))

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, channels, H, W) RGB of 0 to 255, of any dtype, to what the model takes."""
        card = self.card
        return Preprocessing(card.mean, card.std, card.channels).normalise(pixels)


def _checked_sizes(images: Tensor, valid_sizes: Tensor | None) -> Tensor:
    """(B, 2) int64 on the device of ``images``."""
    if valid_sizes is None:
        valid_sizes = torch.tensor([tuple(images.shape[2:])] * images.shape[0], device="cpu")
    valid_sizes = check_valid_sizes(valid_sizes, images.shape[0])
    return valid_sizes.to(images.device, torch.int64)


def load(path: str | Path) -> ExportedModel:
    """Load a file that :func:`swin_backbone.inference.export.write_program` wrote.

    An ONNX file runs on the CPU, on as many threads as PyTorch has now.

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
    with from_extra("export"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes derive from Exception alone
        raise ValueError(f"{path} is no model that onnxruntime can load: {error}") from error
    metadata = session.get_modelmeta().custom_metadata_map

    card = ModelCard.from_metadata(metadata, path)

    def run(*inputs: Tensor) -> list[Tensor]:
        arrays = (value.contiguous().numpy() for value in inputs)
        outputs = session.run(None, dict(zip(card.inputs, arrays, strict=True)))
        return [torch.from_numpy(output) for output in outputs]

    return ExportedModel(card, run)


def _load_torch_export(path: Path) -> ExportedModel:
    extra = {KEY: ""}
    module = torch.export.load(path, extra_files=extra).module()
    metadata = {KEY: extra[KEY]} if extra[KEY] else {}
    return ExportedModel(ModelCard.from_metadata(metadata, path), _listing(module))


def _load_aot_inductor(path: Path) -> ExportedModel:
    package = load_package(str(path))
    return ExportedModel(ModelCard.from_metadata(package.get_metadata(), path), _listing(package))


def _listing(model: Callable) -> Callable[..., Sequence[Tensor]]:
    def run(*inputs: Tensor) -> Sequence[Tensor]:
        outputs = model(*inputs)
        return [outputs] if isinstance(outputs, Tensor) else outputs

    return run
