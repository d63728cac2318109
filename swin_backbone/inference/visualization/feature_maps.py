"""Maps of features as something to look at."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def principal_colours(features: Tensor) -> Tensor:
    """The first three principal components of a map, as red, green and blue.

    Args:
        features: (C, H, W).

    Returns:
        (H, W, 3) in [0, 1]; each component is stretched from its 1st to its 99th percentile. A map
        of fewer than three dimensions leaves colours at zero.
    """
    _, height, width = features.shape
    tokens = features.flatten(1).t().double()
    tokens = tokens - tokens.mean(dim=0)
    rank = min(3, *tokens.shape)
    _, _, axes = torch.linalg.svd(tokens, full_matrices=False)
    axes = axes[:rank]
    # The sign of an axis is arbitrary; its largest entry made positive, pictures can be compared.
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    components = tokens @ (axes * largest.sign()).t()
    colours = torch.zeros(height * width, 3, device="cpu")
    colours[:, :rank] = stretch(components, (0.01, 0.99)).float()
    return colours.view(height, width, 3)


def stretch(values: Tensor, quantiles: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Each column of (N, D) to [0, 1], between two quantiles; a constant column to 0."""
    low, high = (torch.quantile(values, q, dim=0) for q in quantiles)
    return ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)


def norms(features: Tensor) -> Tensor:
    """(C, H, W) to the Euclidean norm of each token, (H, W)."""
    return torch.linalg.vector_norm(features, dim=0)


def receptive_field(model: nn.Module, images: Tensor, stage_map: int) -> Tensor:
    """Effective receptive field (https://arxiv.org/abs/1701.04128) of the central token.

    Args:
        model: a backbone.
        images: (1, channels, H, W), normalised.
        stage_map: which of the returned maps.

    Returns:
        (H, W), the absolute gradient with respect to each pixel, summed over its channels, of the
        token's features times random signs: the sum and the norm of features that a layer norm
        made are constant, and have no gradient.
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        features = model(images)[stage_map]
        centre = features[0, :, features.shape[2] // 2, features.shape[3] // 2]
        draw = torch.rand(len(centre), generator=torch.Generator().manual_seed(0), device="cpu")
        signs = (draw > 0.5).to(centre) * 2 - 1
        (gradient,) = torch.autograd.grad(signs @ centre, images)
    return gradient[0].abs().sum(dim=0)
