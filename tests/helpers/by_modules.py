"""A backbone that calls each of its modules, as its original does: what fast ways are held to.

Swin Transformer, written out once more: forward functions of the classes, each calling its children
and nothing of theirs. Within :func:`calling_modules` every model computes so, whatever was done to
its modules; attention itself is the reference operation.
"""

import math
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
import torch.nn.functional as F

from swin_backbone import model as layers
from swin_backbone.model.checkpointed_block import CheckpointedBlock
from swin_backbone.ops import shifted_window_attention


def fill(x, size):
    """(B, H, W, C) with zeros at the bottom and right, up to whole tiles of ``size``."""
    bottom, right = (-x.shape[axis] % step for axis, step in zip((1, 2), size, strict=True))
    return F.pad(x, (0, 0, 0, right, 0, bottom))


def embed(self, images, layout=None):
    images = fill(images.permute(0, 2, 3, 1), self.patch_size).permute(0, 3, 1, 2)
    return self.norm(self.projection(images).permute(0, 2, 3, 1))


def attend(self, qkv, size, table, **options):
    rate = self.attn_drop_rate if self.training else 0.0
    attended = shifted_window_attention(
        qkv, table, num_heads=self.num_heads, window_size=self.window_size,
        shift_size=self.shift_size, dropout_p=rate, backend="reference", **options,
    )  # fmt: skip
    return self.proj_drop(self.proj(attended[:, : size[1], : size[2]]))


def attention(self, x, layout=None):
    qkv = self.qkv(fill(x, self.window_size))
    return attend(self, qkv, x.shape, self.relative_position_bias_table, scale=self.scale)


def attention_v2(self, x, layout=None):
    qkv = self.qkv(fill(x, self.window_size))
    bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
    scales = self.logit_scale.clamp(max=math.log(100)).exp().flatten()
    table = self.cpb_mlp(self.window_size, self.pretrained_window_size)
    return attend(self, qkv + bias, x.shape, table, logit_scale=scales)


def mlp(self, x):
    return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


def block(self, x, layout=None, copies=None):
    x = x + self.drop_path(self.attn(self.norm1(x)))
    return x + self.drop_path(self.mlp(self.norm2(x)))


def block_v2(self, x, layout=None, copies=None):
    x = x + self.drop_path(self.norm1(self.attn(x)))
    return self.norm3(x + self.drop_path(self.norm2(self.mlp(x))))


def neighbours(x):
    """(B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 4 C)."""
    x = fill(x, (2, 2)).permute(0, 3, 1, 2)
    height, width = x.shape[2:]
    columns = F.unfold(x, 2, stride=2).transpose(1, 2)
    return columns.view(x.shape[0], height // 2, width // 2, -1)


def merging(self, x, layout=None):
    return self.reduction(self.norm(neighbours(x)))


def merging_v2(self, x, layout=None):
    return self.norm(self.reduction(neighbours(x)))


def stage(self, x, layout=None, norm=None, merge=True, copies=None):
    for child in self.blocks:
        x = child(x)
    features = x if norm is None else norm(x)
    return features, self.downsample(x) if merge and self.downsample is not None else x


FORWARDS = {
    layers.PatchEmbed: embed,
    layers.WindowAttention: attention,
    layers.WindowAttentionV2: attention_v2,
    layers.Mlp: mlp,
    layers.SwinBlock: block,
    layers.SwinBlockV2: block_v2,
    layers.PatchMerging: merging,
    layers.PatchMergingV2: merging_v2,
    layers.SwinStage: stage,
}


@contextmanager
def calling_modules():
    """Within, the package's classes have the forward functions of this file."""
    with ExitStack() as stack:
        for kind, forward in FORWARDS.items():
            create = issubclass(kind, CheckpointedBlock)
            stack.enter_context(mock.patch.object(kind, "forward", forward, create=create))
        yield
