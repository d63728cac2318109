"""The multi-scale Swin Transformer backbone that configs name."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from . import arguments
from .checkpoints import Target, find_backbone, fit_state_dict, read_checkpoint
from .factories import act_factory, norm_factory
from .layers import (
    PatchEmbed,
    PatchMerging,
    SwinBlock,
    SwinStage,
    WindowAttention,
    apply_norm,
    resize_position_embedding,
)
from .ops import check_backend_name


@MODELS.register_module()
class SwinBackbone(BaseModule):
    """Swin Transformer V1 (https://arxiv.org/abs/2103.14030) for dense prediction.

    Takes every argument of mmseg's and mmdet's ``SwinTransformer`` with the same meaning and
    default, computes the same function, and loads the same checkpoints. Padding and masks are
    computed from the actual size of the input, which may be any.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'`` or ``'large'``: sets ``embed_dims``, ``depths``
            and ``num_heads`` as published. ``None`` leaves them as given.
        pretrain_img_size: rows and columns of the image at which the absolute position
            embedding is stored, in pixels.
        in_channels: channels of the image.
        embed_dims: channels of stage 0; each further stage has twice as many.
        patch_size: rows and columns of a patch, in pixels.
        window_size: rows and columns of an attention window, in tokens; one integer or two.
        mlp_ratio: hidden channels of the perceptron per channel.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        strides: stride of the patch embedding (equal to ``patch_size``) and of each merging.
        out_indices: stages whose maps are returned, ascending.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: factor on q k^T; ``None`` for ``head_dim ** -0.5``.
        patch_norm: whether patch embedding and patch merging have a norm.
        drop_rate: dropout after the embedding, on attention outputs and in the perceptron.
        attn_drop_rate: dropout on attention weights.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0.
        use_abs_pos_embed: add an absolute position embedding, interpolated to the input's size.
        act_cfg: activation of the perceptron.
        norm_cfg: norms.
        with_cp: recompute blocks in the backward pass to save memory (non-reentrant).
        pretrained: path or address of a checkpoint; old form of ``init_cfg``.
        convert_weights: accepted for mmdet's configs; a checkpoint's layout is always
            recognised from its keys.
        frozen_stages: the patch embedding and this many stages stay as they are; -1 for none.
        backend: how attention is computed, ``'auto'`` or a name in
            :data:`swin_backbone.ops.BACKENDS`.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a path or an address, or
            ``None`` for random weights.

    Attributes:
        num_features: channels of each stage.
        checkpoint_report: what became of each tensor when weights were last loaded.

    Raises:
        ValueError: for a value out of range; the message names the argument.
        TypeError: for a value of the wrong kind.
    """

    def __init__(
        self,
        pretrain_img_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int | Sequence[int] = 4,
        window_size: int | Sequence[int] = 7,
        mlp_ratio: float = 4,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        strides: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        patch_norm: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = False,
        act_cfg: dict = dict(type="GELU"),  # noqa: B006, C408 (never changed; configs' style)
        norm_cfg: dict = dict(type="LN"),  # noqa: B006, C408
        with_cp: bool = False,
        pretrained: str | None = None,
        frozen_stages: int = -1,
        init_cfg: dict | None = None,
        *,
        arch: str | None = None,
        backend: str = "auto",
        convert_weights: bool = False,
    ):
        super().__init__(init_cfg=_resolve_init_cfg(init_cfg, pretrained))
        embed_dims, depths, num_heads = arguments.resolve_architecture(
            arch, embed_dims, depths, num_heads
        )
        arguments.check_stages(embed_dims, depths, num_heads)
        arguments.check_frozen_stages(frozen_stages, len(depths))
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            arguments.check_rate(name, locals()[name])
        check_backend_name(backend)
        self.in_channels = in_channels
        self.depths = depths
        self.num_features = [embed_dims * 2**stage for stage in range(len(depths))]
        self.out_indices = arguments.check_out_indices(out_indices, len(depths))
        self.window_size = arguments.to_pair("window_size", window_size)
        self.frozen_stages = frozen_stages
        self.use_abs_pos_embed = use_abs_pos_embed
        self.checkpoint_report = None

        patch_size = arguments.to_pair("patch_size", patch_size)
        strides = _check_strides(strides, patch_size, len(depths))
        pretrain_img_size = arguments.to_pair("pretrain_img_size", pretrain_img_size)
        self.position_grid = tuple(
            size // patch for size, patch in zip(pretrain_img_size, patch_size, strict=True)
        )
        norm_layer = norm_factory(norm_cfg)
        patch_norm_layer = norm_layer if patch_norm else None

        self.patch_embed = PatchEmbed(in_channels, embed_dims, patch_size, patch_norm_layer)
        if use_abs_pos_embed:
            rows, columns = self.position_grid
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, rows * columns, embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)

        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu")
        drop_paths = iter(rates.tolist())
        self.stages = nn.ModuleList()
        for stage, (channels, depth, heads) in enumerate(
            zip(self.num_features, depths, num_heads, strict=True)
        ):
            blocks = [
                SwinBlock(
                    WindowAttention(
                        channels,
                        heads,
                        self.window_size,
                        _shift_size(index, self.window_size),
                        qkv_bias,
                        qk_scale,
                        attn_drop_rate,
                        drop_rate,
                        backend,
                    ),
                    channels,
                    int(mlp_ratio * channels),
                    norm_layer,
                    act_factory(act_cfg),
                    drop_rate,
                    next(drop_paths),
                    with_cp,
                )
                for index in range(depth)
            ]
            is_last = stage == len(depths) - 1
            downsample = (
                None
                if is_last
                else PatchMerging(channels, 2 * channels, strides[stage + 1], patch_norm_layer)
            )
            self.stages.append(SwinStage(blocks, downsample))
        for stage in self.out_indices:
            self.add_module(f"norm{stage}", norm_layer(self.num_features[stage]))

        self._register_load_state_dict_pre_hook(_adapt_state_dict, with_module=True)
        self._freeze_stages()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Extract the hierarchy of feature maps.

        Args:
            x: (B, in_channels, H, W) images, normalised, floating point, any H, W >= 1.

        Returns:
            One map per entry of ``out_indices``, stage i as (B, num_features[i],
            ceil(H / stride), ceil(W / stride)) with the strides 4, 8, 16, 32. The maps are
            channels-last in memory.

        Raises:
            TypeError: if ``x`` is not floating point.
            ValueError: if ``x`` has another number of axes or channels, or no pixels.
        """
        self._check_images(x)
        x = self.patch_embed(x)
        if self.use_abs_pos_embed:
            x = x + resize_position_embedding(
                self.absolute_pos_embed, self.position_grid, tuple(x.shape[1:3])
            )
        x = self.drop_after_pos(x)
        maps = []
        for index, stage in enumerate(self.stages):
            features, x = stage(x)
            if index in self.out_indices:
                norm = getattr(self, f"norm{index}")
                maps.append(apply_norm(norm, features).permute(0, 3, 1, 2))
        return maps

    def _check_images(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise TypeError(
                f"images must be floating point and normalised, got {x.dtype}; "
                f"use x.float() or a data preprocessor"
            )
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"images must be (B, in_channels={self.in_channels}, H, W), got {tuple(x.shape)}"
            )
        if x.shape[2] < 1 or x.shape[3] < 1:
            raise ValueError(f"images must have H, W >= 1, got {tuple(x.shape)}")

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg``, or draw random weights as the original does."""
        if self.init_cfg is not None:
            tensors, ignored = find_backbone(read_checkpoint(self.init_cfg["checkpoint"]))
            self.load_state_dict(tensors, strict=False)
            if ignored:
                self.checkpoint_report.ignored.update(ignored)
                _log_report(f"whole model {self.init_cfg['checkpoint']}", self.checkpoint_report)
        else:
            self._draw_weights()
        self._is_init = True

    def _draw_weights(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(("absolute_pos_embed", "relative_position_bias_table")):
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def train(self, mode: bool = True) -> SwinBackbone:
        """Switch to training (or evaluation) mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, self.drop_after_pos]
        for stage in range(self.frozen_stages):
            frozen.append(self.stages[stage])
            if stage in self.out_indices:
                frozen.append(getattr(self, f"norm{stage}"))
        for module in frozen:
            module.eval()
            module.requires_grad_(False)
        if self.use_abs_pos_embed:
            self.absolute_pos_embed.requires_grad_(False)


def _resolve_init_cfg(init_cfg: dict | None, pretrained: str | None) -> dict | None:
    if pretrained is not None:
        if init_cfg is not None:
            raise ValueError("give init_cfg or pretrained, not both")
        if not isinstance(pretrained, str):
            raise TypeError(f"pretrained must be a path or an address, got {pretrained!r}")
        return {"type": "Pretrained", "checkpoint": pretrained}
    if init_cfg is not None and (
        init_cfg.get("type") != "Pretrained" or not init_cfg.get("checkpoint")
    ):
        raise ValueError(
            f"init_cfg must be None or dict(type='Pretrained', checkpoint=...), got {init_cfg}"
        )
    return init_cfg


def _check_strides(
    strides: Sequence[int], patch_size: tuple[int, int], num_stages: int
) -> list[tuple[int, int]]:
    if len(strides) < num_stages:
        raise ValueError(f"strides must have {num_stages} entries, got {tuple(strides)}")
    pairs = [arguments.to_pair("strides", stride) for stride in strides]
    if pairs[0] != patch_size:
        raise ValueError(
            f"strides[0] must equal patch_size (patches do not overlap), "
            f"got strides[0]={strides[0]} and patch_size={patch_size}"
        )
    return pairs


def _shift_size(block: int, window_size: tuple[int, int]) -> tuple[int, int]:
    """Every other block shifts its windows by half a window."""
    return (window_size[0] // 2, window_size[1] // 2) if block % 2 else (0, 0)


def _adapt_state_dict(module: SwinBackbone, state_dict, prefix, *_) -> None:
    """Before any loading: turn a known foreign layout into ours, in place, and report it.

    Runs inside ``load_state_dict`` of the backbone or of any model that contains it, torch's
    and mmengine's alike. It raises before a single parameter was touched.
    """
    inside = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    if not inside:
        return
    source, ignored = find_backbone(inside)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    target = Target(shapes, module.window_size, module.position_grid)
    fitted, report = fit_state_dict(source, target)
    report.ignored.update(ignored)
    for key in inside:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in fitted.items()})
    module.checkpoint_report = report
    _log_report(f"{type(module).__name__} ({prefix.rstrip('.') or 'alone'})", report)


def _log_report(what: str, report) -> None:
    incomplete = report.missing or report.unexpected
    level = logging.WARNING if incomplete else logging.INFO
    print_log(f"{what}: {report}", logger="current", level=level)
