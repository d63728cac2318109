"""What feeds a card from few cores: names for configs, whose classes are imported when built."""

from __future__ import annotations

from mmengine.registry import FUNCTIONS, MODELS, TRANSFORMS

from . import deferred_logs, ended_workers  # noqa: F401  (register their hooks)

# mmseg is slow to import, and not always there.


@TRANSFORMS.register_module(name="LoadResizedCrop")
def load_resized_crop(**arguments):
    """See :class:`.load_resized_crop.LoadResizedCrop`."""
    from .load_resized_crop import LoadResizedCrop

    return LoadResizedCrop(**arguments)


@TRANSFORMS.register_module(name="DrawPhotoMetricDistortion")
def draw_distortion(**arguments):
    """See :class:`.distortion.DrawPhotoMetricDistortion`."""
    from .distortion import DrawPhotoMetricDistortion

    return DrawPhotoMetricDistortion(**arguments)


@TRANSFORMS.register_module(name="PackSegBytes")
def pack_seg_bytes(**arguments):
    """See :class:`.packing.PackSegBytes`."""
    from .packing import PackSegBytes

    return PackSegBytes(**arguments)


@FUNCTIONS.register_module(name="stack_seg_bytes")
def stack_seg_bytes(samples):
    """See :func:`.packing.stack_seg_bytes`."""
    from .packing import stack_seg_bytes as stack

    return stack(samples)


@MODELS.register_module(name="SegBytesPreprocessor")
def seg_bytes_preprocessor(**arguments):
    """See :class:`.preprocessor.SegBytesPreprocessor`."""
    from .preprocessor import SegBytesPreprocessor

    return SegBytesPreprocessor(**arguments)
