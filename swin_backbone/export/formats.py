"""Files that a traced program can become."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch.export import ExportedProgram

from ..extras import from_extra
from .card import KEY, ModelCard

#: Inputs of exported models, and which of their axes are free; the second where padding is masked.
INPUTS = {
    "images": {0: "batch", 2: "height", 3: "width"},
    "valid_sizes": {0: "batch"},
}


def write_program(
    program: ExportedProgram, card: ModelCard, path: str | Path, file_format: str
) -> Path:
    """Write a traced program, with its card.

    Args:
        program: from :func:`swin_backbone.export.trace`.
        card: what its users have to know, but for the names of the inputs: these are the program's.
        path: the file, with the format's suffix: ``.onnx`` or ``.pt2``.
        file_format: a name in :data:`FORMATS`.

    Returns:
        The path.

    Raises:
        ValueError: if the format is unknown or the suffix is not the format's.
    """
    path = Path(path)
    if file_format not in FORMATS:
        raise ValueError(f"file_format must be one of {list(FORMATS)}, got {file_format!r}")
    suffix, write = FORMATS[file_format]
    if path.suffix != suffix:
        raise ValueError(f"a file of format {file_format!r} must end in {suffix!r}, got {path}")
    inputs = tuple(INPUTS)[: len(program.graph_signature.user_inputs)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write(program, dataclasses.replace(card, inputs=inputs), path)
    return path


def output_names(card: ModelCard) -> list[str]:
    """``features0``, ``features1``, ... or ``scores``."""
    if card.kind == "segmentor":
        return ["scores"]
    return [f"features{index}" for index in range(len(card.strides))]


def _write_onnx(program: ExportedProgram, card: ModelCard, path: Path) -> None:
    with from_extra("export"):
        import onnx  # noqa: F401  (the exporter asks for both in words of its own)
        import onnxscript  # noqa: F401

    written = torch.onnx.export(
        program,
        dynamo=True,
        input_names=list(card.inputs),
        output_names=output_names(card),
        dynamic_shapes=tuple(INPUTS[name] for name in card.inputs),
        verbose=False,
    )
    written.model.metadata_props[KEY] = card.to_json()
    written.save(path)


def _write_torch_export(program: ExportedProgram, card: ModelCard, path: Path) -> None:
    torch.export.save(program, path, extra_files={KEY: card.to_json()})


def _write_aot_inductor(program: ExportedProgram, card: ModelCard, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    options = {"aot_inductor.metadata": {KEY: card.to_json()}}
    aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


#: Suffix and writer of each format. A ``.pt2`` of torch.export is a graph, loaded with
#: :func:`torch.export.load`; one of AOTInductor is machine code for the device it was made on,
#: loaded with :func:`torch._inductor.aoti_load_package`.
FORMATS: dict[str, tuple[str, Callable[[ExportedProgram, ModelCard, Path], None]]] = {
    "onnx": (".onnx", _write_onnx),
    "torch-export": (".pt2", _write_torch_export),
    "aot-inductor": (".pt2", _write_aot_inductor),
}
