"""Microsoft's original repository, classification and dense prediction forks."""

from torch import Tensor

from .base import CLASSIFIER, RECOMPUTED, Layout


def _convert(key: str, tensor: Tensor) -> Tensor:
    if ".downsample." in key and tensor.shape[-1] % 4 == 0:
        return _to_unfold_order(tensor)
    if key == "absolute_pos_embed" and tensor.dim() == 4:  # (1, C, H, W) in the dense forks
        return tensor.flatten(2).transpose(1, 2)
    return tensor


def _to_unfold_order(tensor: Tensor) -> Tensor:
    """Reorder the 4 C merged channels, the last axis of the tensor.

    The original concatenates the neighbours (0,0), (1,0), (0,1), (1,1), each with its C
    channels; ours keeps the four neighbours (0,0), (0,1), (1,0), (1,1) of a channel together.
    """
    neighbours = tensor.unflatten(-1, (4, tensor.shape[-1] // 4))
    row_major = neighbours[..., [0, 2, 1, 3], :]
    return row_major.transpose(-2, -1).flatten(-2)


OFFICIAL = Layout(
    name="official",
    renames=[
        (r"^layers\.", "stages."),
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
    ],
    ignored=[
        (r"\.relative_position_index$|\.attn_mask$", RECOMPUTED),
        (r"^(head|norm)\.", CLASSIFIER),
    ],
    convert=_convert,
)
