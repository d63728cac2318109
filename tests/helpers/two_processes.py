"""What several processes compute together, against one process; run by torchrun, writes JSON."""

import sys
from contextlib import contextmanager

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from helpers.compiled_together import WRAPPERS, compiled_ahead
from helpers.found_by_all import write_and_leave
from swin_backbone import SwinBackbone

ARGUMENTS = {
    "embed_dims": 8,
    "depths": (2, 2),
    "num_heads": (1, 2),
    "strides": (4, 2),
    "out_indices": (0, 1),
    "window_size": 3,
    "drop_path_rate": 0.0,
}


class Model(nn.Module):
    """A backbone and the mean of its squared maps."""

    def __init__(self, backbone_class=SwinBackbone, **changes):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = backbone_class(**{**ARGUMENTS, **changes})
        self.backbone.init_weights()
        for parameter in self.backbone.parameters():  # V2's norms begin at zero
            nn.init.normal_(parameter, std=0.2)
        self.double()

    def forward(self, images, **options):
        return sum(x.square().mean() for x in self.backbone(images, **options))


def images(rank, size):
    generator = torch.Generator().manual_seed(7 + rank)
    return torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


def largest_difference(a, b):
    """Over all tensors; NaN, which Python's ``max`` would pass over, if there is one."""
    return torch.stack([(x - y).abs().max() for x, y in zip(a, b, strict=True)]).max().item()


@contextmanager
def counted_broadcasts():
    """Bytes of the tensors that DDP broadcasts, in a list of one number."""
    count, original = [0], dist._broadcast_coalesced

    def counting(group, tensors, *args):
        count[0] += sum(t.numel() * t.element_size() for t in tensors)
        return original(group, tensors, *args)

    dist._broadcast_coalesced = counting
    try:
        yield count
    finally:
        dist._broadcast_coalesced = original


def joined_batch(rank, **changes):
    """DDP on halves of a batch, against one process on all of it."""
    model = Model(**changes)
    wrapped = DistributedDataParallel(model)
    found = gradients(model, wrapped(images(rank, (20, 28))))
    both = torch.cat([images(other, (20, 28)) for other in range(dist.get_world_size())])
    return largest_difference(found, gradients(model, model(both)))


def other_sizes(rank):
    """Each process has images of another size in the same step; several steps."""
    model = Model()
    wrapped = DistributedDataParallel(model)
    differences = []
    for sizes in [((20, 28), (36, 12)), ((33, 9), (17, 40))]:
        found = gradients(model, wrapped(images(rank, sizes[rank])))
        alone = [gradients(model, model(images(r, sizes[r]))) for r in range(2)]
        mean = [(a + b) / 2 for a, b in zip(*alone, strict=True)]
        differences.append(largest_difference(found, mean))
    return torch.tensor(differences).max().item()


def with_cp(rank):
    """DDP with activation checkpointing, against DDP without."""
    plain, recomputed = (DistributedDataParallel(Model(with_cp=cp)) for cp in (False, True))
    found = [
        gradients(model.module, model(images(rank, (20, 28)))) for model in (plain, recomputed)
    ]
    return largest_difference(*found)


def masked(rank):
    """DDP with images that fill different parts of a batch, against one process on all of it."""
    model = Model(mask_padding=True)
    wrapped = DistributedDataParallel(model)
    sizes = [torch.tensor([(9, 28), (20, 13)]), torch.tensor([(20, 28), (5, 6)])]
    found = gradients(model, wrapped(images(rank, (20, 28)), valid_sizes=sizes[rank]))
    both = torch.cat([images(other, (20, 28)) for other in range(2)])
    return largest_difference(found, gradients(model, model(both, valid_sizes=torch.cat(sizes))))


def frozen(rank, frozen_stages):
    """Steps of an optimizer by mmengine's DDP and constructor, against one process on all of it.

    mmengine wraps the model first, then forms the optimizer's groups, then sets training mode.
    """
    config = {"optimizer": {"type": "SGD", "lr": 0.1, "weight_decay": 0.01}}
    config["paramwise_cfg"] = {"norm_decay_mult": 0.0}
    alone, model = (Model(frozen_stages=frozen_stages, out_indices=(1,)) for _ in range(2))
    before = [p.clone() for p in model.backbone.frozen_parameters()]
    wrapped = MMDistributedDataParallel(model)
    wrappers = [build_optim_wrapper(m, config) for m in (wrapped, alone)]
    assert sum(len(g["params"]) for g in wrappers[0].optimizer.param_groups) == len(
        list(model.parameters())
    )
    wrapped.train()
    alone.train()
    for step in range(3):  # a parameter that DDP waits for in vain fails in the second
        parts = [images(2 * step + other, (20, 28)) for other in range(dist.get_world_size())]
        wrappers[0].update_params(DistributedDataParallel.forward(wrapped, parts[rank]))
        wrappers[1].update_params(alone(torch.cat(parts)))
    after = model.backbone.frozen_parameters()
    assert (len(after) > 0) == (frozen_stages >= 0)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return largest_difference(list(model.parameters()), list(alone.parameters()))


def early_maps(rank):
    """Steps of DDP on maps of the first stages only, against one process on all of it."""
    model = Model(depths=(1, 1, 1), num_heads=(1, 2, 4), strides=(4, 2, 2), out_indices=(0, 1))
    wrapped = DistributedDataParallel(model)
    differences = []
    for step in range(3):  # a parameter that DDP waits for in vain fails in the second
        parts = [images(2 * step + other, (20, 28)) for other in range(2)]
        found = gradients(model, wrapped(parts[rank]))
        differences.append(largest_difference(found, gradients(model, model(torch.cat(parts)))))
    return torch.tensor(differences).max().item()


def empty_batch(rank, **changes):
    """Steps of DDP in which one process has no images: the mean of gradients and zeros."""
    model = Model(**changes)
    wrapped = DistributedDataParallel(model)
    differences = []
    for step in range(2):
        batch = images(step, (20, 28))
        found = gradients(model, wrapped(batch[: 0 if rank == step else 2]))
        half = [gradient / 2 for gradient in gradients(model, model(batch))]
        differences.append(largest_difference(found, half))
    return torch.tensor(differences).max().item()


def broadcast_bytes(rank, backbone_class):
    """What two steps broadcast, though DDP is asked to broadcast buffers."""
    wrapped = DistributedDataParallel(Model(backbone_class), broadcast_buffers=True)
    with counted_broadcasts() as count:
        for _ in range(2):
            gradients(wrapped.module, wrapped(images(rank, (20, 28))))
    return count[0]


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    from mmseg.models.backbones import SwinTransformer

    results = {
        "joined batch": joined_batch(rank),
        "version 2": joined_batch(rank, version="v2"),
        "other sizes": other_sizes(rank),
        "with_cp": with_cp(rank),
        "masked": masked(rank),
        "nothing frozen": frozen(rank, -1),
        "patch embedding frozen": frozen(rank, 0),
        "stage frozen": frozen(rank, 1),
        "early maps": early_maps(rank),
        "empty batch": empty_batch(rank),
        "empty batch, version 2, packed": empty_batch(rank, version="v2", packed=True),
        **{f"ahead, {wrapper}": compiled_ahead(rank, wrapper) for wrapper in WRAPPERS},
        "bytes": broadcast_bytes(rank, SwinBackbone),
        "bytes of mmseg's": broadcast_bytes(rank, SwinTransformer),
    }
    write_and_leave(sys.argv[1], results)


if __name__ == "__main__":
    main()
