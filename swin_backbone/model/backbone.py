"""The multi-scale Swin Transformer backbone that configs name."""

from __future__ import annotations

import warnings
from collections.abc import Sequence, Set

import torch
from torch import Tensor, nn

from ..checkpoints import CheckpointError, CheckpointReport
from ..checkpoints.loading import (
    adapt_state_dict,
    already_fitted,
    fit_checkpoint,
    load_pretrained,
    resolve_init_cfg,
)
from ..ops import (
    LowPrecisionCopies,
    TokenLayout,
    clear_padding,
    compute_dtype,
    map_layouts,
    pack_pyramid,
)
from ..ops.argument_checks import Optional, Pair, is_sequence, show
from ..ops.geometry.valid_sizes import check_valid_sizes
from ..ops.torch_internals.exporting import is_exporting
from ..ops.torch_internals.module_contents import before_loading
from . import arguments
from .block_v2 import SwinBlockV2
from .feature_info import FeatureInfo, describe_features
from .hub import HubMethods
from .layer_factories import act_factory, norm_factory
from .patch_embed import PatchEmbed
from .position_embedding import position_embedding_for
from .stage_builder import StageOptions, build_stages
from .window_attention import WindowAttention


class SwinBackbone(HubMethods, nn.Module):
    """Swin Transformer V1 (https://arxiv.org/abs/2103.14030) and V2
    (https://arxiv.org/abs/2111.09883) for dense prediction.

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
        window_size: rows and columns of an attention window, in tokens: one integer or two for
            all stages; or one entry a stage, given as pairs if there are two stages.
        mlp_ratio: hidden channels of the MLP per channel.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        strides: stride of the patch embedding (equal to ``patch_size``) and of each merging.
        out_indices: stages whose maps are returned, ascending. Stages past the last of them are not
            run; their parameters stay in the state dict and need no gradients.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: factor on q k^T; ``None`` for ``head_dim ** -0.5``.
        patch_norm: whether patch embedding and patch merging have a norm.
        drop_rate: dropout after the embedding, on attention outputs and in the MLP.
        attn_drop_rate: dropout on attention weights.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0.
        use_abs_pos_embed: add an absolute position embedding, interpolated to the input's size.
        act_cfg: activation of the MLP.
        norm_cfg: norms.
        with_cp: recompute blocks in the backward pass to save memory (non-reentrant).
        pretrained: path or address of a checkpoint; old form of ``init_cfg``.
        convert_weights: accepted for mmdet's configs; a checkpoint's layout is always
            recognised from its keys.
        frozen_stages: the patch embedding and this many stages stay as they are; -1 for none.
        backend: how attention is computed, ``'auto'`` or a name in
            :data:`swin_backbone.ops.BACKENDS`.
        mask_padding: keep the padding of a batch, and the tokens that fill up windows, out of
            attention, so that an image's maps do not depend on what it is batched with. Weights
            trained without it were trained with other attention near the borders. See
            :meth:`forward` for how the images' sizes are found.
        packed: take a padded batch apart, and compute on the images' own tokens alone, see
            :meth:`forward_packed`. The maps are zero outside the images. Their sizes are found
            as for ``mask_padding``, with which it can be combined.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a path or an address, or
            ``None`` for random weights.
        version: ``'v1'``, or ``'v2'``: residual post-norm, scaled cosine attention, continuous
            position bias; queries and values have a bias, keys none.
        pretrained_window_sizes: V2 only: per stage, the window with which the weights were
            trained, where it differs from ``window_size``; 0 for no difference. ``None``: zeros.
        extra_norm_every_n_blocks: V2 only: end every n-th block of a stage with a norm on the
            main branch, as the largest models do; 0 for none.
        small_maps: windows on maps that are no larger than they are. ``'shift'``: shift all the
            same (mmseg, mmdet); ``'no_shift'``: no shift along an axis that one window covers
            (torchvision); ``'shrink'``: and the window has the map's size there (timm);
            ``'shrink_square'``: if it covers the shorter side, no shift, and windows of that
            side (the original classifiers, transformers, mmpretrain).
        table_interpolation: how bias tables of a checkpoint with another window are resized
            (V1): ``'bicubic'``, as the original does, or ``'log_spaced'``, timm's default.
        output_norms: whether each map goes through a norm of its own (``norm0`` to ``norm3``), as
            in mmseg, mmdet and mmpretrain. ``False``: there are none, and maps are as the stages
            give them, which is what timm, torchvision and transformers' V2 return.

    Attributes:
        num_features: channels of each stage.
        window_sizes: rows and columns of each stage's windows, in tokens.
        init_cfg: the checkpoint that :meth:`init_weights` loads, or ``None``.
        is_init: whether weights were loaded or drawn; models of OpenMMLab around this one then
            leave them as they are.
        checkpoint_report: what became of each tensor when weights were last loaded.
        arguments: all arguments, by name, as they were checked.

    Raises:
        ValueError: for a value out of range; the message names the argument.
        TypeError: for a value of the wrong kind.
    """

    @arguments.checked(arguments.KINDS, keep=True)
    def __init__(
        self,
        pretrain_img_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int | Sequence[int] = 4,
        window_size: int | Sequence[int] | Sequence[Sequence[int]] = 7,
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
        mask_padding: bool = False,
        packed: bool = False,
        convert_weights: bool = False,
        version: str = "v1",
        pretrained_window_sizes: Sequence[int | Sequence[int]] | None = None,
        extra_norm_every_n_blocks: int = 0,
        small_maps: str = "shift",
        table_interpolation: str = "bicubic",
        output_norms: bool = True,
    ):
        super().__init__()
        self.init_cfg = resolve_init_cfg(init_cfg, pretrained)
        self.is_init = False
        embed_dims, depths, num_heads = arguments.resolve_architecture(
            arch, embed_dims, depths, num_heads
        )
        arguments.check_stages(embed_dims, depths, num_heads)
        arguments.check_frozen_stages(frozen_stages, len(depths))
        arguments.check_hidden_channels(mlp_ratio, embed_dims)
        if (mask_padding or packed) and small_maps != "shift":
            raise ValueError(
                f"mask_padding and packed need small_maps='shift', got {small_maps!r}: the other "
                f"rules choose windows by the size of a whole batch's map"
            )
        arguments.check_version_options(
            version, qk_scale, pretrained_window_sizes, extra_norm_every_n_blocks
        )
        self.version = version
        self.table_interpolation = table_interpolation
        self.pretrained_window_sizes = arguments.resolve_pretrained_windows(
            pretrained_window_sizes, len(depths)
        )
        self.in_channels = in_channels
        self.depths = depths
        self.num_features = [embed_dims * 2**stage for stage in range(len(depths))]
        self.out_indices = arguments.check_out_indices(out_indices, len(depths))
        self.window_sizes = arguments.resolve_window_sizes(window_size, len(depths))
        self.frozen_stages = frozen_stages
        self.use_abs_pos_embed = use_abs_pos_embed
        self.mask_padding = mask_padding
        self.packed = packed
        self.small_maps = small_maps
        self.output_norms = output_norms
        self.checkpoint_report = None

        self.strides = strides = arguments.check_strides(strides, patch_size, len(depths))
        self.position_grid = arguments.check_position_grid(
            pretrain_img_size, patch_size, use_abs_pos_embed
        )
        self.strides = strides[: len(depths)]
        norm_layer = norm_factory(norm_cfg, embed_dims)
        patch_norm_layer = norm_layer if patch_norm else None

        self.patch_embed = PatchEmbed(in_channels, embed_dims, patch_size, patch_norm_layer)
        if use_abs_pos_embed:
            rows, columns = self.position_grid
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, rows * columns, embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)

        options = StageOptions(
            version=version,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            norm_layer=norm_layer,
            patch_norm_layer=patch_norm_layer,
            act_layer=act_factory(act_cfg, embed_dims),
            with_cp=with_cp,
            backend=backend,
            small_maps=small_maps,
            extra_norm_every_n_blocks=extra_norm_every_n_blocks,
        )
        self.stages = build_stages(
            options,
            self.num_features,
            depths,
            num_heads,
            strides,
            drop_path_rate,
            self.window_sizes,
            self.pretrained_window_sizes,
        )
        if output_norms:
            for stage in self.out_indices:
                self.add_module(f"norm{stage}", norm_layer(self.num_features[stage]))

        before_loading(self, adapt_state_dict)
        self._untrained = {name for name, p in self.named_parameters() if not p.requires_grad}
        self._freeze_stages()

    @property
    def num_run_stages(self) -> int:
        """How many stages run: those up to the last whose map is returned."""
        return self.out_indices[-1] + 1

    @property
    def features_info(self) -> list[FeatureInfo]:
        """What :meth:`forward` returns, one entry a map."""
        return describe_features(self.out_indices, self.num_features, self.strides)

    def forward(self, x: Tensor, valid_sizes: Tensor | None = None) -> list[Tensor]:
        """Extract the hierarchy of feature maps.

        Args:
            x: (B, in_channels, H, W) images, normalised, in the dtype of the weights (under
                autocast, any but float64), any B >= 0, H, W >= 1.
            valid_sizes: with ``mask_padding`` or ``packed``: (B, 2) integers >= 1, the rows and
                columns of each image in pixels, as a tensor, an array or lists; it lies at the top
                left, the rest is padding. More than the batch has means all of it. Of a tensor on a
                device, which is not waited for unless ``packed`` is set, less than 1 means an image
                without pixels, whose maps are zero.
                ``None``: an attribute of that name on ``x``, which our data preprocessors set;
                if there is none either, all of ``x`` is valid.

        Returns:
            One map per entry of ``out_indices``, stage i as (B, num_features[i],
            ceil(H / stride), ceil(W / stride)) with the strides 4, 8, 16, 32. The maps are
            channels-last in memory. With either of these, each is zero outside the image, and
            inside what the image gives by itself.

        Raises:
            TypeError: if ``x`` is no tensor, not floating point, or of another dtype than the
                weights outside autocast; if ``valid_sizes`` is not of integers.
            ValueError: if ``x`` has another number of axes or channels, or no pixels; if
                ``valid_sizes`` has another shape, is below 1 or beyond 2**31, or is given without
                either option.
        """
        self._check_images(x)
        valid_sizes = self._valid_sizes(x, valid_sizes)
        if x.shape[0] == 0:
            return self._forward_no_images(x)
        images, *layouts = self._layouts(x, valid_sizes)
        x = clear_padding(x, images.valid_sizes, channels_axis=1)
        return self._forward_tokens(self.patch_embed(x, layouts[0]), layouts)

    def _forward_no_images(self, x: Tensor) -> list[Tensor]:
        """Maps of a batch (0, in_channels, H, W): what a blank image gives, cut away. So they have
        the shapes and dtypes of any batch's, and gradients of zeros reach every parameter, which
        DDP waits for; operations need not be made for nothing."""
        blank = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
        wants_sizes = self.mask_padding or self.packed
        sizes = torch.tensor([x.shape[2:]], device="cpu") if wants_sizes else None
        return [features[:0] for features in self.forward(blank, sizes)]

    def _layouts(self, x: Tensor, valid_sizes: Tensor | None) -> list[TokenLayout]:
        """Where images lie in a batch (B, channels, H, W), and tokens in each stage that runs."""
        if not self.packed:
            return map_layouts(valid_sizes, self.strides[: self.num_run_stages], x.device)
        height, width = x.shape[2:]
        # More than the batch has means all of it.
        sizes = [(min(rows, height), min(cols, width)) for rows, cols in valid_sizes.tolist()]
        images = map_layouts(valid_sizes, (), x.device)
        return [*images, *self._variable_length(sizes, x.device, (height, width))]

    def _variable_length(
        self,
        sizes: Sequence[tuple[int, int]],
        device: torch.device,
        batch_size: tuple[int, int] | None,
    ) -> list[TokenLayout]:
        """Where the tokens of images of ``sizes`` lie in each stage that runs."""
        strides = self.strides[: self.num_run_stages]
        windows = self.window_sizes[: self.num_run_stages]
        packings = pack_pyramid(sizes, strides, windows, device, batch_size, self.mask_padding)
        return [TokenLayout(packing=packing) for packing in packings]

    def _forward_tokens(self, x: Tensor, layouts: Sequence[TokenLayout]) -> list:
        """Tokens of the first stage to the maps of :meth:`forward` or :meth:`forward_packed`."""
        if self.use_abs_pos_embed:
            x = x + position_embedding_for(
                self.absolute_pos_embed, self.position_grid, x, layouts[0]
            )
        x = self.drop_after_pos(x)
        copies, maps = self._low_precision_copies(x), []
        for index, layout in enumerate(layouts):
            norm, merge = self._output_norm(index), index + 1 < len(layouts)
            features, x = self.stages[index](x, layout, norm, merge, copies)
            if index in self.out_indices:
                if norm is None:  # else it has cleared what is outside
                    features = layout.clear(features)
                maps.append(layout.to_maps(features))
        return maps

    def _output_norm(self, stage: int) -> nn.Module | None:
        return getattr(self, f"norm{stage}", None)

    def forward_packed(
        self, images: Sequence[Tensor], batch_size: tuple[int, int] | None = None
    ) -> list:
        """Extract the maps of images of different sizes, without any padding between them.

        The tokens of all images go through the stages as one list; windows are local, so that a
        table of sizes keeps the images apart.

        Args:
            images: (in_channels, H, W) each, normalised, floating point, any H, W >= 1.
            batch_size: rows and columns (or one integer for both), in pixels, of the batch that a
                head expects, at least those of every image.

        Returns:
            For each entry of ``out_indices``, with ``batch_size`` a map (B, C, rows, columns)
            that is zero outside the images, and without it a list of the images' own maps
            (C, rows, columns). Both are what each image gives by itself.

        Raises:
            TypeError: if an image is no tensor, not floating point, or of another dtype than the
                weights outside autocast; if ``batch_size`` is not of integers.
            ValueError: if there is no image, one has another number of axes or channels or no
                pixels, or one is larger than ``batch_size``; if that is below 1 or beyond 2**31.
        """
        if not is_sequence(images) and not isinstance(images, Tensor):
            raise TypeError(f"images must be a list of tensors, got {show(images)}")
        if len(images) == 0:
            raise ValueError("forward_packed needs at least one image, got images=[]")
        if self.small_maps != "shift":
            raise ValueError(
                f"packed images need small_maps='shift', got {self.small_maps!r}: the other rules "
                f"choose windows by the size of a map, and these have many"
            )
        for image in images:
            self._check_images(image[None] if isinstance(image, Tensor) else image)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        batch_size = Optional(Pair())("batch_size", batch_size)
        layouts = self._variable_length(sizes, images[0].device, batch_size)
        return self._forward_tokens(self.patch_embed(images), layouts)

    def _valid_sizes(self, x: Tensor, given: Tensor | None) -> Tensor | None:
        """Rows and columns of each image (B, 2), where they are; ``None`` for no mask."""
        if not (self.mask_padding or self.packed):
            if given is not None:
                raise ValueError(
                    "valid_sizes needs a backbone with mask_padding=True or packed=True"
                )
            return None
        sizes = getattr(x, "valid_sizes", None) if given is None else given
        if sizes is None:
            _warn_of_missing_sizes(len(x))
            return torch.tensor(x.shape[2:], device="cpu").expand(len(x), 2)
        if self.packed and isinstance(sizes, Tensor):
            sizes = sizes.cpu()  # tables are made there
        return check_valid_sizes(sizes, x.shape[0])

    def _low_precision_copies(self, x: Tensor) -> LowPrecisionCopies | None:
        """Where the blocks' kernels run in low precision, one cast for all of their weights."""
        if not x.is_cuda or is_exporting() or compute_dtype(x) == x.dtype:
            return None
        run = list(self.stages)[: self.num_run_stages]
        blocks = [block for stage in run for block in stage.blocks]
        weights = [weight for block in blocks for weight in block.linear_weights()]
        return LowPrecisionCopies(weights, compute_dtype(x))

    def _check_images(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"images must be a tensor, got {show(x)}")
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
        weights = self.patch_embed.input_dtype()
        if weights not in (None, x.dtype) and not _autocast_joins(x, weights):
            raise TypeError(
                f"images must have the dtype of the weights outside autocast, got images of "
                f"{x.dtype} and weights of {weights}; use x.to({weights}), or convert the model"
            )

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg``, or draw random weights as the original does."""
        if self.init_cfg is not None:
            load_pretrained(self, self.init_cfg)
        else:
            self.draw_weights()
        self.is_init = True

    def extra_repr(self) -> str:
        """What ``print`` says beside the parts."""
        return f"init_cfg={self.init_cfg}" if self.init_cfg else ""

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """Load tensors of any known layout, all of them or none.

        Args:
            state_dict: of this backbone, or of any library's model that has one like it.
            strict: raise if a tensor is missing or nothing takes one.
            assign: as in :meth:`torch.nn.Module.load_state_dict`.

        Raises:
            CheckpointError: if the tensors do not fit; nothing was loaded then.
        """
        if not strict:
            return super().load_state_dict(state_dict, strict=False, assign=assign)
        fitted, report = self.fit_checkpoint(state_dict)
        if report.missing or report.unexpected:
            raise CheckpointError(f"strict loading refuses this checkpoint: {report}")
        with already_fitted(self, report):
            return super().load_state_dict(fitted, strict=True, assign=assign)

    def fit_checkpoint(self, checkpoint) -> tuple[dict[str, Tensor], CheckpointReport]:
        """What loading a checkpoint would do, without doing it.

        Args:
            checkpoint: what a file holds, see :func:`swin_backbone.checkpoints.find_backbone`.

        Returns:
            Tensors under this backbone's names, and the report.

        Raises:
            CheckpointError: if the tensors do not fit.
        """
        return fit_checkpoint(self, checkpoint)

    def draw_weights(self, names: Set[str] | None = None) -> None:
        """Draw random weights as the original does; also what was never set, as on a new device.

        Args:
            names: only parameters of modules that have one of these names; ``None`` for all.
        """
        for prefix, module in self.named_modules():
            own = {
                f"{prefix}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)
            }
            if own and (names is None or own & names):
                self._draw_module(module)
        # Each block of V2 begins as the identity (the original).
        for prefix, module in self.named_modules():
            if isinstance(module, SwinBlockV2):
                for name in ("norm1", "norm2"):
                    norm = getattr(module, name)
                    chosen = names is None or f"{prefix}.{name}.weight" in names
                    if chosen and isinstance(norm, nn.LayerNorm) and norm.weight is not None:
                        nn.init.zeros_(norm.weight)

    def _draw_module(self, module: nn.Module) -> None:
        """Parameters of one module, without those of its parts."""
        if module is self:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        elif isinstance(module, WindowAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):  # convolutions, norms, V2's attention
            module.reset_parameters()

    def train(self, mode: bool = True) -> SwinBackbone:
        """Switch to training (or evaluation) mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    def frozen_parameters(self) -> list[nn.Parameter]:
        """The parameters that ``frozen_stages`` or ``out_indices`` alone keeps from training."""
        frozen = set(map(id, self._parameters_to_freeze()))
        return [
            parameter
            for name, parameter in self.named_parameters()
            if id(parameter) in frozen and name not in self._untrained
        ]

    def _freeze_stages(self) -> None:
        for module in self._frozen_modules():
            module.eval()
        for parameter in self._parameters_to_freeze():
            parameter.requires_grad_(False)

    def _parameters_to_freeze(self) -> list[nn.Parameter]:
        frozen = [p for module in self._frozen_modules() for p in module.parameters()]
        if self.use_abs_pos_embed and self.frozen_stages >= 0:
            frozen.append(self.absolute_pos_embed)
        return frozen + [p for module in self._idle_modules() for p in module.parameters()]

    def _idle_modules(self) -> list[nn.Module]:
        """What is past the last map that is returned; DDP would wait for gradients of it."""
        idle = list(self.stages)[self.num_run_stages :]
        return [*idle, self.stages[self.num_run_stages - 1].downsample] if idle else []

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = [self._output_norm(stage) for stage in range(self.frozen_stages)]
        norms = [norm for norm in norms if norm is not None]
        return [self.patch_embed, self.drop_after_pos, *self.stages[: self.frozen_stages], *norms]


def _autocast_joins(x: Tensor, weights: torch.dtype) -> bool:
    """Whether autocast gives images and weights one dtype; it leaves float64 as it is."""
    enabled = torch.is_autocast_enabled(x.device.type)
    return enabled and torch.float64 not in (x.dtype, weights)


def _warn_of_missing_sizes(images: int) -> None:
    """Say that a batch came without sizes; not for one image, which has no padding as a rule.

    Python shows a warning once for each place that gives it.
    """
    if images > 1 and not torch.compiler.is_compiling():
        warnings.warn(
            "no valid_sizes came with the batch, so all of it counts as image; "
            "see SwinBackbone.forward for where they are looked for",
            stacklevel=2,
        )
