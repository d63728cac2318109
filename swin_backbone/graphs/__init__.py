"""Training steps and predictions as CUDA graphs: the host starts one graph, not a thousand kernels.

Nothing here knows of any library's models; what a batch is, the caller says.
"""

from .graphed_losses import GraphedLosses
from .predictions import GraphedPredictions, graph_predictions
from .processes import Agreement, Averaging
from .recording import CaptureError, CudaRecorder, Recorder

__all__ = [
    "Agreement",
    "Averaging",
    "CaptureError",
    "CudaRecorder",
    "GraphedLosses",
    "GraphedPredictions",
    "Recorder",
    "graph_predictions",
]
