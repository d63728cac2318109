"""All layers of DINO's decoder as CUDA graphs, whatever number of noised queries a step has.

How many queries learn from noised objects follows from how many objects the images of a batch have,
so that steps would hardly ever have the same shapes. Here queries are added to them, up to a number
that steps share. None of the others attends to these, and what comes of them is cut off: what is
left is what it was.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad

from ..graphs import graph_backbone
from ..graphs.replaced_methods import is_replaced
from .mmdet_feature_sizes import LAYERS
from .rewrite import Undo, imported, is_of, own_method, replace_methods

WHAT = "all layers as CUDA graphs, with as many queries in each step"
#: Under which a decoder has what refines its boxes, the number of queries that learn to match, and
#: of how many noised ones there is a multiple.
KNOWN = "_swin_backbone_queries"
#: Noised queries where the generator makes as many groups whatever there is.
NOISED = 200


def _stock_detector() -> type | None:
    return imported("mmdet.models.detectors.dino", "DINO")


def _stock_decoder() -> type | None:
    return imported("mmdet.models.layers.transformer.dino_layers", "DinoTransformerDecoder")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock_detector())


def why_not(detector: nn.Module) -> str | None:
    """Why a detector's decoder is left alone, or ``None``."""
    decoder = detector.decoder
    if not is_of(decoder, _stock_decoder()):
        return f"its decoder is a {type(decoder).__name__}"
    if is_replaced(decoder, LAYERS):
        return f"it has graphs in {LAYERS} already: revert them first"
    reason = own_method(detector, "forward_decoder", _stock_detector())
    return reason or own_method(decoder, "forward", _stock_decoder())


def apply(detector: nn.Module, **options) -> Undo:
    """Graph the decoder of a detector.

    Args:
        detector: a DINO.
        options: further ones of :func:`swin_backbone.graph_backbone`.

    Raises:
        ValueError: what :func:`why_not` says, or as that.
    """
    reason = why_not(detector)
    if reason is not None:
        raise ValueError(reason)
    decoder, branches = detector.decoder, detector.bbox_head.reg_branches
    generator = detector.dn_query_generator
    noised = 2 * generator.num_dn_queries if generator.dynamic_dn_groups else NOISED
    undo_methods = replace_methods(decoder, {"forward": forward, LAYERS: run_layers})
    decoder.__dict__[KNOWN] = branches, detector.num_queries, noised

    def undo() -> None:
        undo_methods()
        decoder.__dict__.pop(KNOWN, None)

    try:
        graphs = graph_backbone(decoder, method=LAYERS, modules=[decoder, branches], **options)
    except ValueError:
        undo()
        raise

    def undo_all() -> None:
        graphs.revert()
        undo()

    return undo_all


def forward(
    decoder: nn.Module,
    query: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    self_attn_mask: Tensor | None,
    reference_points: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    valid_ratios: Tensor,
    reg_branches: nn.ModuleList | None,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """``DinoTransformerDecoder.forward``."""
    branches, matched, noised = decoder.__dict__.get(KNOWN, (None, 0, 1))
    others = (spatial_shapes, level_start_index, valid_ratios)
    more = 0 if self_attn_mask is None else _missing(query.shape[1] - matched, noised)
    if kwargs or reg_branches is not branches or branches is None or more < 0:
        return type(decoder).forward(
            decoder, query, value, key_padding_mask, self_attn_mask, reference_points, *others,
            reg_branches, **kwargs,
        )  # fmt: skip
    if more:
        query = pad(query, (0, 0, more, 0))
        reference_points = pad(reference_points, (0, 0, more, 0), value=0.5)
        # True is hidden; each sees itself, as a softmax over nothing is not a number.
        self_attn_mask = pad(self_attn_mask, (more, 0, more, 0), value=True).fill_diagonal_(False)
    found = decoder.run_layers(
        query, value, key_padding_mask, self_attn_mask, reference_points, *others
    )
    # (layers, B, queries, C) and (layers + 1, B, queries, 4); of one layer without the first axis.
    return tuple(one[..., more:, :] for one in found) if more else found


def _missing(noised: int, of: int) -> int:
    """How many queries there are to add; negative where there are none of either kind."""
    return -1 if noised < 0 else max(1, -(-noised // of)) * of - noised


def run_layers(decoder: nn.Module, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the stock decoder gives, of its arguments without the last."""
    return type(decoder).forward(decoder, *inputs, decoder.__dict__[KNOWN][0])
