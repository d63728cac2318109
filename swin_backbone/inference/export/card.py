"""What a user of an exported model has to know, kept in the file itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

#: Key of the card in the metadata of each format.
KEY = "swin_backbone.model_card"


@dataclass(frozen=True)
class ModelCard:
    """Preprocessing and meaning of an exported model.

    Args:
        name: the config or architecture it was made from.
        kind: ``'backbone'`` (maps of features), ``'segmentor'`` (scores of classes) or
            ``'detector'`` (boxes, their scores and labels, and masks).
        mean: of each channel, in the units of the image (0 to 255), to be subtracted.
        std: of each channel, to divide by afterwards.
        channels: order of the channels, ``'RGB'`` or ``'BGR'``.
        strides: pixels of the image per row and column of each output; empty for a detector.
        output_channels: channels of each output; empty for a detector.
        classes: names of the classes; empty for a backbone.
        palette: RGB colour of each class, 0 to 255.
        resize: width and height to which the test pipeline resizes an image (with
            ``keep_aspect``, the longer and shorter side that it must fit into); ``None`` to leave
            it as it is, or to follow ``resize_factor``.
        resize_factor: of width and height, by which it resizes an image of any size.
        keep_aspect: whether resizing keeps the aspect of the image.
        inputs: names of the inputs, in order: ``'images'``, and ``'valid_sizes'`` where the
            backbone has ``mask_padding``.
        mask_threshold: probability from which a pixel belongs to an object; ``None`` for all but
            detectors with masks.
        version: of this package, that wrote it.
    """

    name: str
    kind: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str
    strides: tuple[tuple[int, int], ...]
    output_channels: tuple[int, ...]
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    resize: tuple[int, int] | None = None
    resize_factor: tuple[float, float] | None = None
    keep_aspect: bool = True
    inputs: tuple[str, ...] = ("images",)
    mask_threshold: float | None = None
    version: str = ""

    def to_json(self) -> str:
        """The card as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: object) -> ModelCard:
        """The card among a file's metadata.

        Args:
            metadata: key to text.
            source: the file, for messages.

        Raises:
            ValueError: if there is no card, or it is none of this version's.
        """
        if KEY not in metadata:
            raise ValueError(f"{source} has no model card; write it with swin-backbone export")
        try:
            fields = json.loads(metadata[KEY])
            return cls(**{name: _as_tuple(value) for name, value in fields.items()})
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise ValueError(f"{source} has a damaged model card: {error}") from error


def _as_tuple(value):
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
