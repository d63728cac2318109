"""A stock config's data, fast: what is replaced, and what is not and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

#: Arguments of stock transforms that are passed on, and those that must be as by default.
_PASSED = {
    "LoadImageFromFile": ("backend_args",),
    "LoadAnnotations": ("reduce_zero_label", "backend_args"),
    "LoadMappedLabels": ("values", "colours"),
    "RandomResize": ("scale", "ratio_range", "keep_ratio", "clip_object_border"),
    "Resize": ("scale", "keep_ratio", "clip_object_border"),
    "RandomCrop": ("crop_size", "cat_max_ratio", "ignore_index"),
}
_PLAIN = {
    "LoadImageFromFile": {
        "to_float32": False,
        "color_type": "color",
        "imdecode_backend": "cv2",
        "file_client_args": None,
        "ignore_empty": False,
    },
    "LoadAnnotations": {"imdecode_backend": "pillow"},
    "RandomResize": {"backend": "cv2", "interpolation": "bilinear", "resize_type": "Resize"},
    "Resize": {"backend": "cv2", "interpolation": "bilinear", "scale_factor": None},
}
#: What LoadResizedCrop takes the place of, in this order; a pipeline may lack the resizing.
_HEAD = {
    "image": ("LoadImageFromFile",),
    "labels": ("LoadAnnotations", "LoadMappedLabels"),
    "resize": ("RandomResize", "Resize"),
    "crop": ("RandomCrop",),
}
#: What may come before packing: images stay (H, W, 3) of bytes, labels (H, W), nothing is added.
_BETWEEN = {"LoadResizedCrop", "RandomFlip", "RandomRotate", "RandomRotFlip", "RandomCutOut"}
_STOCK_HEAD = {kind for kinds in _HEAD.values() for kind in kinds}
_DISTORTION, _PACKING = "PhotoMetricDistortion", "PackSegInputs"


@dataclass
class DataReport:
    """What became of a config's data.

    Attributes:
        replaced: what it was, and what it is now.
        left: what was left as it is, and why.
    """

    replaced: list[tuple[str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [(was, now) for was, now in self.replaced]
        lines += [(was, f"left as it is: {why}") for was, why in self.left]
        width = max((len(was) for was, _ in lines), default=0)
        return "\n".join(f"{was:{width}}  {now}" for was, now in lines)


def use_fast_data(cfg: Config, reduced: bool = True, on_gpu: bool | None = None) -> DataReport:
    """Let a segmentor's config load its training data fast, and log without waiting; in place.

    Args:
        cfg: with ``train_dataloader``, ``model.data_preprocessor`` and ``default_hooks``.
        reduced: whether large JPEGs are decoded at a part of their size where they shrink to it.
        on_gpu: whether a GPU distorts and normalises batches of bytes, which a CPU does better in
            the workers; default: where there is one.

    Returns:
        what was replaced, and what was not and why; it can be printed.
    """
    report = DataReport()
    on_gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
    _log_without_waiting(cfg, report)
    loader = cfg.get("train_dataloader")
    if not loader:
        report.left.append(("train_dataloader", "the config has none"))
        return report
    _feed(loader, on_gpu, report)
    if loader.get("pin_memory") and loader.get("persistent_workers"):
        cfg.default_hooks.end_workers = {"type": "EndWorkersHook"}
        report.replaced.append(("workers", "EndWorkersHook: they leave as soon as the run ends"))
    datasets = list(_with_pipelines(loader.get("dataset")))
    kind = _name((cfg.get("model") or {}).get("data_preprocessor"))
    for dataset in datasets:
        dataset.pipeline = _with_fast_head(dataset.pipeline, reduced, report)
    reason = _why_no_bytes(cfg, loader, datasets, kind)
    if not on_gpu:
        reason = "there is no GPU to distort and normalise them"
    if reason:
        report.left.append(("batches", reason))
        return report
    for dataset in datasets:
        dataset.pipeline = [_fast_tail(step) for step in dataset.pipeline]
    cfg.model.data_preprocessor.type = "SegBytesPreprocessor"
    loader.collate_fn = {"type": "stack_seg_bytes"}
    kinds = {_name(step) for dataset in datasets for step in dataset.pipeline}
    if "DrawPhotoMetricDistortion" in kinds:
        now = "DrawPhotoMetricDistortion: drawn by the workers, done on the device"
        report.replaced.append((_DISTORTION, now))
    report.replaced += [
        (_PACKING, "PackSegBytes, stack_seg_bytes: bytes over the bus"),
        (kind, "SegBytesPreprocessor: copies while the device computes, normalises there"),
    ]
    return report


def _log_without_waiting(cfg: Config, report: DataReport) -> None:
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    stock = hooks.get("runtime_info", {"type": "RuntimeInfoHook"})
    if _name(stock) in ("RuntimeInfoHook", "DeferredRuntimeInfoHook"):
        hooks.runtime_info = {"type": "DeferredRuntimeInfoHook"}
        report.replaced.append(
            ("RuntimeInfoHook", "DeferredRuntimeInfoHook: losses are read when they are logged")
        )
    else:
        report.left.append(("default_hooks.runtime_info", f"it is {_name(stock) or stock}"))


def _feed(loader: ConfigDict, on_gpu: bool, report: DataReport) -> None:
    """Pinned memory, and workers that live on; neither where a config says otherwise."""
    if not on_gpu:
        report.left.append(("train_dataloader.pin_memory", "there is no GPU to copy to"))
    elif "pin_memory" not in loader:
        loader.pin_memory = True
        report.replaced.append(("train_dataloader", "pinned memory"))
    if loader.get("num_workers", 0) == 0:
        report.left.append(
            ("train_dataloader.num_workers", "0: images are loaded while the device waits")
        )
    elif not loader.setdefault("persistent_workers", True):
        report.left.append(("train_dataloader.persistent_workers", "the config has False"))


def _with_pipelines(dataset) -> list[ConfigDict]:
    """Every dataset of a config that has a pipeline; wrappers are looked into."""
    if isinstance(dataset, (list, tuple)):
        return [found for part in dataset for found in _with_pipelines(part)]
    if not isinstance(dataset, Mapping):
        return []
    found = [dataset] if dataset.get("pipeline") else []
    return found + _with_pipelines(dataset.get("dataset", dataset.get("datasets")))


def _with_fast_head(pipeline: list, reduced: bool, report: DataReport) -> list:
    """A pipeline whose first steps are one, or as it was."""
    taken, place = dict.fromkeys(_HEAD), 0
    for part, kinds in _HEAD.items():
        step = pipeline[place] if place < len(pipeline) else {}
        if _name(step) in kinds:
            reason = _odd(step)
            taken[part] = dict(step)
            place += 1
        else:
            reason = "" if part == "resize" else f"step {place} is {_name(step) or 'missing'}"
        if reason:
            report.left.append((" and ".join(kinds), reason))
            return pipeline
    fast = {"type": "LoadResizedCrop", **taken}
    if not reduced:
        fast["reduced"] = False
    was = ", ".join(_name(step) for step in pipeline[:place])
    report.replaced.append(
        (was, "LoadResizedCrop: decodes, resizes and counts what the crop keeps")
    )
    return [ConfigDict(fast), *pipeline[place:]]


def _odd(step: Mapping) -> str:
    """What of a step's arguments is not known here; ``''`` if nothing is."""
    plain = _PLAIN.get(_name(step), {})
    for name, value in step.items():
        if name in plain and value != plain[name]:
            return f"{name} is {value!r}"
        if name != "type" and name not in plain and name not in _PASSED[_name(step)]:
            return f"it has {name}"
    if _name(step) == "Resize" and not step.get("scale"):
        return "it has no scale"
    return ""


def _why_no_bytes(cfg: Config, loader, datasets: list, preprocessor: str) -> str:
    """Why batches cannot be made of bytes; ``''`` if they can."""
    settings = (cfg.get("model") or {}).get("data_preprocessor") or {}
    collate = loader.get("collate_fn", {"type": "pseudo_collate"})
    if preprocessor != "SegDataPreProcessor":
        return f"the data preprocessor is {preprocessor or 'missing'}, not SegDataPreProcessor"
    if not (settings.get("size") or settings.get("size_divisor")):
        return "the data preprocessor has neither size nor size_divisor"
    if _name(collate) != "pseudo_collate":
        return f"train_dataloader has a collate_fn of its own, {_name(collate)}"
    if not datasets:
        return "no dataset with a pipeline was found"
    for dataset in datasets:
        names = [_name(step) for step in dataset.pipeline]
        if names[-1] != _PACKING:
            return f"the pipeline ends with {names[-1]}, not {_PACKING}"
        loads = (*_HEAD["image"], *_HEAD["labels"])
        odd = [_odd(step) for step in dataset.pipeline if _name(step) in loads]
        if any(odd):
            return f"no bytes are loaded: {next(filter(None, odd))}"
        before, after = _around_distortion(names[:-1])
        unknown = [name for name in before if name not in _BETWEEN and name not in _STOCK_HEAD]
        if unknown or set(after) - {"RandomFlip"}:
            return f"not known before {_PACKING}: {', '.join(unknown or after)}"
    return ""


def _around_distortion(names: list[str]) -> tuple[list[str], list[str]]:
    """What comes before and after the distortion, if there is one."""
    place = names.index(_DISTORTION) if _DISTORTION in names else len(names)
    return names[:place], names[place + 1 :]


def _fast_tail(step: Mapping) -> Mapping:
    kinds = {_DISTORTION: "DrawPhotoMetricDistortion", _PACKING: "PackSegBytes"}
    kind = kinds.get(_name(step))
    return step if kind is None else ConfigDict({**step, "type": kind})


def _name(settings: Any) -> str:
    """The type of a part of a config, without the scope of mmseg or mmcv; ``''`` if it has none."""
    kind = settings.get("type", "") if isinstance(settings, Mapping) else ""
    kind = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return kind.removeprefix("mmseg.").removeprefix("mmcv.").removeprefix("mmengine.")
