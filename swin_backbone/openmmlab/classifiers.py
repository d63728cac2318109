"""Backbones that take the arguments of mmpretrain's, for its classifiers.

mmpretrain calls several arguments otherwise than mmseg and mmdet, gives others another meaning, and
its necks and heads want a tuple of maps. What it can say and :class:`SwinBackbone` cannot do,
raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..model.arguments import ARCHITECTURES
from ..model.backbone import SwinBackbone
from ..ops.argument_checks import RATE
from .layer_decay import layer_index

#: Swin V2 (https://arxiv.org/abs/2111.09883), section 3.4: embed_dims, depths, num_heads.
LARGEST = {
    "huge": (352, (2, 2, 18, 2), (8, 16, 32, 64)),
    "giant": (512, (2, 2, 42, 4), (16, 32, 64, 128)),
}
EXTRA_NORM_EVERY = 6  # blocks of these two

#: Arguments with which mmpretrain changes what the network is, and the value that leaves it.
UNCHANGED = {
    "out_after_downsample": False,
    "interpolate_mode": "bicubic",
    "norm_cfg": {"type": "LN"},
    "patch_cfg": {},
}


@MODELS.register_module()
class SwinClassifierBackbone(SwinBackbone):
    """:class:`SwinBackbone` with the arguments of mmpretrain's ``SwinTransformer``.

    In a config of mmpretrain only the type changes. Where mmpretrain refuses a map that is smaller
    than a window, this one shrinks the window, as the original does.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'large'`` or their first letter; or a dict with
            ``embed_dims``, ``depths`` and ``num_heads``.
        img_size: rows and columns of the image at which the absolute position embedding is stored,
            in pixels.
        patch_size: rows and columns of a patch, in pixels.
        in_channels: channels of the image.
        window_size: rows and columns of a window, in tokens; one for all stages or one a stage.
        drop_rate: dropout after the embedding, and nowhere else.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0.
        out_indices: stages whose maps are returned, ascending.
        use_abs_pos_embed: add an absolute position embedding, interpolated to the input's size.
        with_cp: recompute blocks in the backward pass to save memory.
        frozen_stages: stages up to this one, and the patch embedding, stay as they are, with the
            patch merging behind them; -1 for none.
        norm_eval: accepted; there are no batch norms that it could switch.
        pad_small_map: whether windows on maps that are no larger than they are stay as they are
            and shift (``small_maps='shift'``), or not (``'shrink_square'``).
        stage_cfgs: of all stages or one a stage: ``window_size``, or ``block_cfgs`` with it.
        init_cfg: as in :class:`SwinBackbone`.
        **options: mmpretrain's ``out_after_downsample``, ``interpolate_mode``, ``norm_cfg`` and
            ``patch_cfg``, if they have their default; or arguments of :class:`SwinBackbone`, such
            as ``backend``.

    Raises:
        ValueError: for a value out of range or that cannot be honoured; the message names the
            argument.
        TypeError: for a value of the wrong kind, or an argument that does not exist.
    """

    def __init__(
        self,
        arch: str | Mapping = "tiny",
        img_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 4,
        in_channels: int = 3,
        window_size: int | Sequence[int] = 7,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (3,),
        use_abs_pos_embed: bool = False,
        with_cp: bool = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        pad_small_map: bool = False,
        stage_cfgs: Mapping | Sequence[Mapping] = {},
        init_cfg: dict | None = None,
        **options: Any,
    ):
        for name, value in UNCHANGED.items():
            given = options.pop(name, value)
            if given != value:
                raise ValueError(f"{name} must be left at {value!r}, got {given!r}")
        drop_rate = RATE("drop_rate", drop_rate)
        architecture = _architecture(arch, options.get("version", "v1"))
        stages = len(architecture["depths"])
        super().__init__(
            pretrain_img_size=img_size,
            patch_size=patch_size,
            strides=(patch_size, *(2,) * (stages - 1)),
            in_channels=in_channels,
            window_size=_window_sizes(window_size, stage_cfgs, stages),
            drop_path_rate=drop_path_rate,
            out_indices=out_indices,
            use_abs_pos_embed=use_abs_pos_embed,
            with_cp=with_cp,
            frozen_stages=frozen_stages + 1 if frozen_stages >= 0 else frozen_stages,
            small_maps="shift" if pad_small_map else "shrink_square",
            init_cfg=init_cfg,
            **architecture,
            **options,
        )
        self.drop_after_pos = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, valid_sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """The maps of :meth:`SwinBackbone.forward`, as a tuple."""
        return tuple(super().forward(x, valid_sizes))

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of a parameter in layers, and the number of layers, for mmpretrain's layer-wise
        learning-rate decay: 0 for the patch embedding, then the blocks, then all else.

        Args:
            param_name: name of the parameter in the model.
            prefix: of the backbone's parameters.
        """
        layers = sum(self.depths) + 2
        name = param_name.removeprefix(prefix)
        inside = param_name.startswith(prefix) and name.startswith(("patch_embed.", "stages."))
        return layer_index(name, self.depths) if inside else layers - 1, layers


@MODELS.register_module()
class SwinClassifierBackboneV2(SwinClassifierBackbone):
    """:class:`SwinBackbone` with the arguments of mmpretrain's ``SwinTransformerV2``.

    As :class:`SwinClassifierBackbone`, with other defaults and

    Args:
        arch: also ``'huge'`` and ``'giant'``; a dict has ``extra_norm_every_n_blocks`` beside.
        img_size: as there.
        window_size: as there.
        pretrained_window_sizes: as in :class:`SwinBackbone`.
        **options: all other arguments.
    """

    def __init__(
        self,
        arch: str | Mapping = "tiny",
        img_size: int | Sequence[int] = 256,
        *,
        window_size: int | Sequence[int] = 8,
        pretrained_window_sizes: Sequence[int] | None = None,
        **options: Any,
    ):
        super().__init__(
            arch,
            img_size,
            window_size=window_size,
            pretrained_window_sizes=pretrained_window_sizes,
            version="v2",
            **options,
        )


def _architecture(arch: str | Mapping, version: str) -> dict[str, Any]:
    """embed_dims, depths, num_heads, and for V2 the extra norms."""
    keys = ["embed_dims", "depths", "num_heads"]
    if isinstance(arch, str):
        known = {**ARCHITECTURES, **LARGEST} if version == "v2" else ARCHITECTURES
        name = {each[0]: each for each in known}.get(arch.lower(), arch.lower())
        if name not in known:
            raise ValueError(f"arch must be a dict or one of {', '.join(known)}, got {arch!r}")
        chosen = dict(zip(keys, known[name], strict=True))
        if name in LARGEST:
            chosen["extra_norm_every_n_blocks"] = EXTRA_NORM_EVERY
        return chosen
    if version == "v2":
        keys.append("extra_norm_every_n_blocks")
    if not isinstance(arch, Mapping) or set(arch) != set(keys):
        raise ValueError(f"arch must be a name or a dict with {', '.join(keys)}, got {arch!r}")
    return dict(arch)


def _window_sizes(
    window_size: int | Sequence[int], stage_cfgs: Mapping | Sequence[Mapping], stages: int
) -> list:
    """The window of each stage, from all places in which mmpretrain looks for it."""
    per_stage = list(window_size) if isinstance(window_size, Sequence) else [window_size] * stages
    configs = [stage_cfgs] * stages if isinstance(stage_cfgs, Mapping) else list(stage_cfgs)
    if len(per_stage) != stages or len(configs) != stages:
        raise ValueError(
            f"window_size and stage_cfgs must be one for all or one for each of {stages} stages, "
            f"got {window_size!r} and {stage_cfgs!r}"
        )
    chosen = []
    for size, config in zip(per_stage, configs, strict=True):
        blocks = config.get("block_cfgs", {})
        if set(config) - {"window_size", "block_cfgs"} or not set(blocks) <= {"window_size"}:
            raise ValueError(
                f"stage_cfgs can set window_size, by itself or in block_cfgs, got {config!r}"
            )
        size = blocks.get("window_size", config.get("window_size", size))
        chosen.append((size, size))
    return chosen
