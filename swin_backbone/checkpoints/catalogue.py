"""Public pretrained weights of Swin V1 and V2: where they are, and what they were trained with."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ops.argument_checks import OneOf, Optional

IN1K = "ImageNet-1k"
IN22K = "ImageNet-22k"
IN22K_IN1K = "ImageNet-22k, then ImageNet-1k"


@dataclass(frozen=True)
class PublicCheckpoint:
    """One file of weights.

    Attributes:
        name: unique.
        source: what ``init_cfg``'s ``checkpoint`` takes.
        library: whose layout it has.
        version: ``'v1'`` or ``'v2'``.
        architecture: arguments of ``SwinBackbone`` that set its size.
        window_size: of each stage, or of all, in tokens.
        image_size: in pixels, at which it was trained last.
        data: what it was trained with.
        licence: SPDX identifier.
        page: where it is published.
        trained_windows: V2: window of each stage in pretraining, in tokens, to which its
            coordinates are scaled.
    """

    name: str
    source: str
    library: str
    version: str
    architecture: dict = field(hash=False)
    window_size: int | tuple[int, ...]
    image_size: int
    data: str
    licence: str
    page: str
    trained_windows: tuple[int, int, int, int] | None = None

    def config(self) -> dict:
        """Arguments of ``SwinBackbone`` for fine-tuning from it."""
        config = {"version": self.version, **self.architecture, "window_size": self.window_size}
        if self.trained_windows is not None:
            config["pretrained_window_sizes"] = self.trained_windows
        return {**config, "init_cfg": {"type": "Pretrained", "checkpoint": self.source}}


def list_checkpoints(
    version: str | None = None, library: str | None = None
) -> list[PublicCheckpoint]:
    """The public checkpoints that are known, in a fixed order.

    Args:
        version: only these of ``'v1'`` or ``'v2'``.
        library: only those in the layout of ``'official'``, ``'mmseg'``, ``'mmpretrain'``,
            ``'timm'``, ``'torchvision'`` or ``'transformers'``.

    Raises:
        ValueError: if there is no such version or library.
        TypeError: if one of them is no text.
    """
    Optional(OneOf(("v1", "v2")))("version", version)
    Optional(OneOf(tuple(sorted({entry.library for entry in CATALOGUE}))))("library", library)
    return [
        entry
        for entry in CATALOGUE
        if version in (None, entry.version) and library in (None, entry.library)
    ]


_DATA = {"1k": IN1K, "22k": IN22K, "22kto1k": IN22K_IN1K}

# (size, window, image, data, release and file of the original, timm's name)
_V1 = [
    ("tiny", 7, 224, "1k", "v1.0.0/swin_tiny_patch4_window7_224", "ms_in1k"),
    ("small", 7, 224, "1k", "v1.0.0/swin_small_patch4_window7_224", "ms_in1k"),
    ("base", 7, 224, "1k", "v1.0.0/swin_base_patch4_window7_224", "ms_in1k"),
    ("base", 12, 384, "1k", "v1.0.0/swin_base_patch4_window12_384", "ms_in1k"),
    ("tiny", 7, 224, "22k", "v1.0.8/swin_tiny_patch4_window7_224_22k", "ms_in22k"),
    ("small", 7, 224, "22k", "v1.0.8/swin_small_patch4_window7_224_22k", "ms_in22k"),
    ("base", 7, 224, "22k", "v1.0.0/swin_base_patch4_window7_224_22k", "ms_in22k"),
    ("base", 12, 384, "22k", "v1.0.0/swin_base_patch4_window12_384_22k", "ms_in22k"),
    ("large", 7, 224, "22k", "v1.0.0/swin_large_patch4_window7_224_22k", "ms_in22k"),
    ("large", 12, 384, "22k", "v1.0.0/swin_large_patch4_window12_384_22k", "ms_in22k"),
    ("tiny", 7, 224, "22kto1k", "v1.0.8/swin_tiny_patch4_window7_224_22kto1k_finetune", None),
    ("small", 7, 224, "22kto1k", "v1.0.8/swin_small_patch4_window7_224_22kto1k_finetune", None),
    ("base", 7, 224, "22kto1k", "v1.0.0/swin_base_patch4_window7_224_22kto1k", None),
    ("base", 12, 384, "22kto1k", "v1.0.0/swin_base_patch4_window12_384_22kto1k", None),
    ("large", 7, 224, "22kto1k", "v1.0.0/swin_large_patch4_window7_224_22kto1k", None),
    ("large", 12, 384, "22kto1k", "v1.0.0/swin_large_patch4_window12_384_22kto1k", None),
]

# (size, window, image, data, windows in pretraining, file of the original and of mmpretrain)
_V2 = [
    ("tiny", 8, 256, "1k", 8, "window8_256", "tiny-w8_3rdparty_in1k-256px_20220803-e318968f"),
    ("tiny", 16, 256, "1k", 16, "window16_256", "tiny-w16_3rdparty_in1k-256px_20220803-9651cdd7"),
    ("small", 8, 256, "1k", 8, "window8_256", "small-w8_3rdparty_in1k-256px_20220803-b01a4332"),
    (
        "small", 16, 256, "1k", 16, "window16_256",
        "small-w16_3rdparty_in1k-256px_20220803-b707d206",
    ),
    ("base", 8, 256, "1k", 8, "window8_256", "base-w8_3rdparty_in1k-256px_20220803-8ff28f2b"),
    ("base", 16, 256, "1k", 16, "window16_256", "base-w16_3rdparty_in1k-256px_20220803-5a1886b7"),
    (
        "base", 12, 192, "22k", 12, "window12_192_22k",
        "base-w12_3rdparty_in21k-192px_20220803-f7dc9763",
    ),
    (
        "large", 12, 192, "22k", 12, "window12_192_22k",
        "large-w12_3rdparty_in21k-192px_20220803-d9073fee",
    ),
    (
        "base", 16, 256, "22kto1k", 12, "window12to16_192to256_22kto1k_ft",
        "base-w16_in21k-pre_3rdparty_in1k-256px_20220803-8d7aa8ad",
    ),
    (
        "large", 16, 256, "22kto1k", 12, "window12to16_192to256_22kto1k_ft",
        "large-w16_in21k-pre_3rdparty_in1k-256px_20220803-c40cbed7",
    ),
    (
        "base", 24, 384, "22kto1k", 12, "window12to24_192to384_22kto1k_ft",
        "base-w24_in21k-pre_3rdparty_in1k-384px_20220803-44eb70f8",
    ),
    (
        "large", 24, 384, "22kto1k", 12, "window12to24_192to384_22kto1k_ft",
        "large-w24_in21k-pre_3rdparty_in1k-384px_20220803-3b36c165",
    ),
]  # fmt: skip

# The last stage's map was smaller than the window, and the window shrunk to it.
_TRAINED = {8: (8, 8, 8, 8), 16: (16, 16, 16, 8), 12: (12, 12, 12, 6)}

_MMSEG = [
    ("tiny", 7, 224, "1k", "tiny_patch4_window7_224_20220317-1cdeb081"),
    ("small", 7, 224, "1k", "small_patch4_window7_224_20220317-7ba6d6dd"),
    ("base", 7, 224, "1k", "base_patch4_window7_224_20220317-e9b98025"),
    ("base", 7, 224, "22k", "base_patch4_window7_224_22k_20220317-4f79f7c0"),
    ("base", 12, 384, "1k", "base_patch4_window12_384_20220317-55b0104a"),
    ("base", 12, 384, "22k", "base_patch4_window12_384_22k_20220317-e5c09f74"),
    ("large", 7, 224, "22k", "large_patch4_window7_224_22k_20220412-aeecf2aa"),
    ("large", 12, 384, "22k", "large_patch4_window12_384_22k_20220412-6580f57d"),
]

_TORCHVISION = [
    ("v1", "tiny", 7, 224, "swin_t-704ceda3"),
    ("v1", "small", 7, 224, "swin_s-5e29d889"),
    ("v1", "base", 7, 224, "swin_b-68c6b09e"),
    ("v2", "tiny", 8, 256, "swin_v2_t-b137f0e2"),
    ("v2", "small", 8, 256, "swin_v2_s-637d8ceb"),
    ("v2", "base", 8, 256, "swin_v2_b-781e5279"),
]

_S3 = [
    ("tiny", {"arch": "tiny"}, (7, 7, 14, 7)),
    ("small", {"arch": "small"}, (14, 14, 14, 7)),
    ("base", {"arch": None, "depths": (2, 2, 30, 2)}, (7, 7, 14, 7)),
]

_ORIGINAL_FILES = "https://github.com/SwinTransformer/storage/releases/download"
_ORIGINAL = "https://github.com/microsoft/Swin-Transformer"
_OPENMMLAB_FILES = "https://download.openmmlab.com"
_HUB = "https://huggingface.co"


def _original() -> list[PublicCheckpoint]:
    entries = []
    for size, window, image, data, file, _ in _V1:
        entries.append(
            PublicCheckpoint(
                f"official/{file.split('/')[1]}", f"{_ORIGINAL_FILES}/{file}.pth", "official",
                "v1", {"arch": size}, window, image, _DATA[data], "MIT", _ORIGINAL,
            )
        )  # fmt: skip
    for size, window, image, data, trained, file, _ in _V2:
        name = f"swinv2_{size}_patch4_{file}"
        entries.append(
            PublicCheckpoint(
                f"official/{name}", f"{_ORIGINAL_FILES}/v2.0.0/{name}.pth", "official", "v2",
                {"arch": size}, window, image, _DATA[data], "MIT", _ORIGINAL, _TRAINED[trained],
            )
        )  # fmt: skip
    return entries


def _openmmlab() -> list[PublicCheckpoint]:
    entries = []
    for size, window, image, data, file in _MMSEG:
        entries.append(
            PublicCheckpoint(
                f"mmseg/swin_{file}",
                f"{_OPENMMLAB_FILES}/mmsegmentation/v0.5/pretrain/swin/swin_{file}.pth",
                "mmseg", "v1", {"arch": size}, window, image, _DATA[data], "Apache-2.0",
                "https://github.com/open-mmlab/mmsegmentation/tree/main/configs/swin",
            )
        )  # fmt: skip
    for size, window, image, data, trained, _, file in _V2:
        folder = "swin-v2/pretrain" if data == "22k" else "swin-v2"
        entries.append(
            PublicCheckpoint(
                f"mmpretrain/swinv2-{file}",
                f"{_OPENMMLAB_FILES}/mmclassification/v0/{folder}/swinv2-{file}.pth",
                "mmpretrain", "v2", {"arch": size}, window, image, _DATA[data], "Apache-2.0",
                "https://github.com/open-mmlab/mmpretrain/tree/main/configs/swin_transformer_v2",
                _TRAINED[trained],
            )
        )  # fmt: skip
    name = "simmim_swin-base_16xb128-amp-coslr-800e_in1k-192"
    entries.append(
        PublicCheckpoint(
            f"mmpretrain/{name}",
            f"{_OPENMMLAB_FILES}/mmselfsup/1.x/simmim/{name}/{name}_20220916-a0e931ac.pth",
            "mmpretrain", "v1", {"arch": "base"}, 6, 192, f"{IN1K}, masked image modelling",
            "Apache-2.0", "https://github.com/open-mmlab/mmpretrain/tree/main/configs/simmim",
        )
    )  # fmt: skip
    return entries


def _torchvision() -> list[PublicCheckpoint]:
    return [
        PublicCheckpoint(
            f"torchvision/{file}", f"https://download.pytorch.org/models/{file}.pth",
            "torchvision", version, {"arch": size}, window, image, IN1K, "BSD-3-Clause",
            "https://pytorch.org/vision/stable/models/swin_transformer.html",
            _TRAINED[8] if version == "v2" else None,
        )
        for version, size, window, image, file in _TORCHVISION
    ]  # fmt: skip


def _timm() -> list[PublicCheckpoint]:
    def entry(name, version, architecture, window, image, data, trained=None):
        return PublicCheckpoint(
            f"timm/{name}", f"timm:{name}", "timm", version, architecture, window, image, data,
            "MIT", f"{_HUB}/timm/{name}", trained,
        )  # fmt: skip

    entries = []
    for size, window, image, data, _, tag in _V1:
        name = f"swin_{size}_patch4_window{window}_{image}.{tag or 'ms_in22k_ft_in1k'}"
        entries.append(entry(name, "v1", {"arch": size}, window, image, _DATA[data]))
    for size, window, image, data, trained, file, _ in _V2:
        tag = {"1k": "ms_in1k", "22k": "ms_in22k", "22kto1k": "ms_in22k_ft_in1k"}[data]
        name = f"swinv2_{size}_{file.removesuffix('_ft').removesuffix('_22kto1k')}"
        name = f"{name.removesuffix('_22k')}.{tag}"
        options = ("v2", {"arch": size}, window, image, _DATA[data], _TRAINED[trained])
        entries.append(entry(name, *options))
    for size, architecture, windows in _S3:
        name = f"swin_s3_{size}_224.ms_in1k"
        architecture = {key: value for key, value in architecture.items() if value is not None}
        entries.append(entry(name, "v1", architecture, windows, 224, IN1K))
    return entries


def _transformers() -> list[PublicCheckpoint]:
    entries = []
    for size, window, image, data, trained, file, _ in _V2:
        name = f"swinv2-{size}-patch4-{file.replace('_', '-')}"
        entries.append(
            PublicCheckpoint(
                f"transformers/{name}", f"hf-hub:microsoft/{name}", "transformers", "v2",
                {"arch": size}, window, image, _DATA[data], "Apache-2.0",
                f"{_HUB}/microsoft/{name}", _TRAINED[trained],
            )
        )  # fmt: skip
    for size in ("tiny", "small"):
        name = f"swin-{size}-patch4-window7-224"
        entries.append(
            PublicCheckpoint(
                f"transformers/{name}", f"hf-hub:microsoft/{name}", "transformers", "v1",
                {"arch": size}, 7, 224, IN1K, "Apache-2.0", f"{_HUB}/microsoft/{name}",
            )
        )  # fmt: skip
    return entries


#: Every public checkpoint that is known.
CATALOGUE = (*_original(), *_openmmlab(), *_torchvision(), *_timm(), *_transformers())
