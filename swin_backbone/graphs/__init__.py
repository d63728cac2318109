"""Training steps, predictions and backbones as CUDA graphs: the host starts one graph, not kernels.

Nothing here knows of any library's models; what a batch is, the caller says.
"""

from .gathered_parameters import gathers_as_one
from .graphed_backbones import GraphedBackbone, graph_backbone, graphed_backbones
from .graphed_losses import GraphedLosses
from .predictions import GraphedPredictions, graph_predictions
from .processes import Agreement, Averaging
from .recording import CaptureError, CudaRecorder, Recorder

__all__ = [
    "Agreement",
    "Averaging",
    "CaptureError",
    "CudaRecorder",
    "GraphedBackbone",
    "GraphedLosses",
    "GraphedPredictions",
    "Recorder",
    "gathers_as_one",
    "graph_backbone",
    "graph_predictions",
    "graphed_backbones",
]
