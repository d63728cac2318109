"""Blocks with the structure of the original repository's, which is no package to be installed:
written from the paper, with its names of modules and attributes, window by window."""

import math

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads, window):
        super().__init__()
        self.window_size, self.num_heads = (window, window), heads
        self.scale = (width // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        self._with_layers(width, qkv_bias=True)

    def _with_layers(self, width, qkv_bias):
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)
        self.proj, self.softmax = nn.Linear(width, width), nn.Softmax(-1)

    def bias(self):
        return self.spread(self.relative_position_bias_table)

    def spread(self, table):
        """(heads, N, N) from a number for each offset."""
        side = self.window_size[0]
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        rows, columns = ((places[:, None] - places[None]) + side - 1).unbind(-1)
        return table[rows * (2 * side - 1) + columns].permute(2, 0, 1)

    def scores(self, query, key):
        return self.scale * query @ key.mT

    def project(self, x):
        return self.qkv(x)

    def forward(self, x, mask=None):
        """(B * windows, N, C), and (windows, N, N) to be added to scores."""
        qkv = self.project(x).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = self.scores(query, key) + self.bias()
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        out = self.attn_drop(self.softmax(scores)) @ value
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class CosineAttention(Attention):
    def __init__(self, width, heads, window):
        nn.Module.__init__(self)
        self.window_size, self.num_heads = (window, window), heads
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, heads, bias=False))
        offset = torch.arange(1 - window, window) * (8 / (window - 1))
        axis = offset.sign() * (offset.abs() + 1).log2() / 3
        table = torch.cartesian_prod(axis, axis).view(1, 2 * window - 1, 2 * window - 1, 2)
        self.register_buffer("relative_coords_table", table)
        self.q_bias, self.v_bias = (nn.Parameter(torch.randn(width)) for _ in range(2))
        self._with_layers(width, qkv_bias=False)

    def bias(self):
        return self.spread(16 * self.cpb_mlp(self.relative_coords_table).flatten(0, -2).sigmoid())

    def project(self, x):
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return nn.functional.linear(x, self.qkv.weight, bias)

    def scores(self, query, key):
        query, key = (nn.functional.normalize(side, dim=-1) for side in (query, key))
        return query @ key.mT * self.logit_scale.clamp(max=math.log(100.0)).exp()


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.act, self.drop = nn.GELU(), nn.Dropout(0.0)

    def forward(self, x):
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    """Of detectors and segmentors: they are told the size of their map."""

    attention = Attention

    def __init__(self, width, heads, window, shift, side):
        super().__init__()
        self.window_size, self.shift_size = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = self.attention(width, heads, window), Mlp(width)
        self.drop_path = nn.Identity()
        self.H = self.W = None

    def forward(self, x, mask_matrix):
        attended = self.attend(self.norm1(x), mask_matrix)
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x, mask):
        """Pad, shift, cut into windows, and back."""
        rows, columns, side, shift = self.H, self.W, self.window_size, self.shift_size
        x = x.unflatten(1, (rows, columns))
        x = nn.functional.pad(x, (0, 0, 0, -columns % side, 0, -rows % side))
        x = x.roll((-shift, -shift), (1, 2))
        grid = (x.shape[1] // side, x.shape[2] // side)
        windows = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        out = self.attn(windows.reshape(-1, side * side, x.shape[-1]), mask if shift else None)
        out = out.view(-1, *grid, side, side, x.shape[-1]).transpose(2, 3)
        out = out.flatten(3, 4).flatten(1, 2).roll((shift, shift), (1, 2))
        return out[:, :rows, :columns].flatten(1, 2)

    def run(self, x, size):
        """What a stage does: it tells the size, and makes the mask."""
        self.H, self.W = size
        return self(x, make_mask(size, self.window_size, self.shift_size).to(x))


class V2Block(Block):
    attention = CosineAttention

    def forward(self, x, mask_matrix):
        x = x + self.drop_path(self.norm1(self.attend(x, mask_matrix)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class KnowsItsMap(Block):
    """Of classifiers: maps have one size, of whole windows."""

    def __init__(self, width, heads, window, shift, side):
        super().__init__(width, heads, window, shift, side)
        self.H, self.W = self.input_resolution = (side, side)
        mask = make_mask((side, side), window, shift) if shift else None
        self.register_buffer("attn_mask", mask)

    def forward(self, x):
        return super().forward(x, self.attn_mask)

    def run(self, x, size):
        return self(x)


def make_mask(size, window, shift):
    """(windows, N, N): -100 between tokens that only the shift brought together."""
    axes = []
    for length in size:
        length += -length % window
        place = torch.arange(length)
        axes.append((place >= length - window).int() + (place >= length - shift).int())
    region = 3 * axes[0][:, None] + axes[1]
    region = region.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2)
    region = region.reshape(-1, window * window)
    return -100.0 * (region[:, :, None] != region[:, None]).float()
