"""Files that a traced program can become."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch.export import ExportedProgram

from ...atomic_files import write_whole
from ...extras import from_extra
from ...ops.torch_internals.packaging import compile_package
from .card import KEY, ModelCard
from .detection_ops import onnx_translations

#: Inputs of exported models, and which of their axes are free; the second where padding is masked.
INPUTS = {
    "images": {0: "batch", 2: "height", 3: "width"},
    "valid_sizes": {0: "batch"},
}

#: Bytes of weights above which PyTorch would put them into a second file, beside the first.
ONE_ONNX_FILE = 1_500_000_000


def write_program(
    program: ExportedProgram, card: ModelCard, path: str | Path, file_format: str
) -> Path:
    """Write a traced program, with its card; what was there stays until the file is whole.

    Args:
        program: from :func:`swin_backbone.inference.export.trace`.
        card: what its users have to know, but for the names of the inputs: these are the program's.
        path: the file, with the format's suffix: ``.onnx`` or ``.pt2``.
        file_format: a name in :data:`FORMATS`.

    Returns:
        The path.

    Raises:
        ValueError: if the format is unknown or not for this kind of model, the suffix is not the
            format's, or the weights are too large for one ONNX file.
    """
    path = Path(path)
    check_format(file_format, path, card.kind)
    _, write = FORMATS[file_format]
    inputs = tuple(INPUTS)[: len(program.graph_signature.user_inputs)]
    card = dataclasses.replace(card, inputs=inputs)
    write_whole(path, lambda unfinished: write(program, card, unfinished))
    return path


def check_format(file_format: str, path: Path, kind: str = "backbone") -> None:
    """Raise ``ValueError`` if a format is unknown or not for this kind of model, or the file's
    suffix is not the format's."""
    if file_format not in FORMATS:
        raise ValueError(f"file_format must be one of {list(FORMATS)}, got {file_format!r}")
    suffix, _ = FORMATS[file_format]
    if path.suffix != suffix:
        raise ValueError(f"a file of format {file_format!r} must end in {suffix!r}, got {path}")
    if kind == "detector" and file_format != "onnx":
        # The others would need this package's operators to run.
        raise ValueError(f"a detector is exported in format 'onnx' alone, got {file_format!r}")


def output_names(card: ModelCard) -> list[str]:
    """``features0``, ``features1``, ... or ``scores``, or those of a detector."""
    if card.kind == "detector":
        masks = [] if card.mask_threshold is None else ["masks"]
        return ["boxes", "scores", "labels", *masks]
    if card.kind == "segmentor":
        return ["scores"]
    return [f"features{index}" for index in range(len(card.strides))]


def write_onnx(program: ExportedProgram, card: ModelCard, unfinished: Path) -> None:
    with from_extra("export"):
        import onnx  # noqa: F401  (the exporter asks for both in words of its own)
        import onnxscript  # noqa: F401

    _check_size(program)
    written = torch.onnx.export(
        program,
        dynamo=True,
        input_names=list(card.inputs),
        output_names=output_names(card),
        dynamic_shapes=tuple(INPUTS[name] for name in card.inputs),
        custom_translation_table=onnx_translations(),
        verbose=False,
    )
    written.model.metadata_props[KEY] = card.to_json()
    written.save(unfinished)


def _check_size(program: ExportedProgram) -> None:
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > ONE_ONNX_FILE:
        raise ValueError(
            f"the weights have {size / 1e9:.1f} GB; an .onnx file takes {ONE_ONNX_FILE / 1e9:g}: "
            f"write format 'torch-export'"
        )


def _write_torch_export(program: ExportedProgram, card: ModelCard, unfinished: Path) -> None:
    torch.export.save(program, unfinished, extra_files={KEY: card.to_json()})


def _write_aot_inductor(program: ExportedProgram, card: ModelCard, unfinished: Path) -> None:
    options = {"aot_inductor.metadata": {KEY: card.to_json()}}
    compile_package(program, str(unfinished), options)


#: Suffix and writer of each format. A ``.pt2`` of torch.export is a graph, loaded with
#: :func:`torch.export.load`; one of AOTInductor is machine code for the device it was made on,
#: loaded with :func:`torch._inductor.aoti_load_package`.
FORMATS: dict[str, tuple[str, Callable[[ExportedProgram, ModelCard, Path], None]]] = {
    "onnx": (".onnx", write_onnx),
    "torch-export": (".pt2", _write_torch_export),
    "aot-inductor": (".pt2", _write_aot_inductor),
}
