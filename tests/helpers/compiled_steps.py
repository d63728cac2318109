"""What a training step does, run as it is and under torch.compile."""

from collections import Counter
from contextlib import contextmanager
from itertools import accumulate

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd.profiler import profile

from swin_backbone.ops.triton.launch import Launch

#: Graphs are cut into forward and backward as for inductor, and run as they are.
BACKEND = "aot_eager_decomp_partition"


def compiled(function, **options):
    """``function`` as one graph, and what counts its graphs (``frame_count``)."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(BACKEND)
    return torch.compile(function, fullgraph=True, backend=counter, **options), counter


def operators_of_step(model, run):
    """Names of the operators, forward and backward, of a step that ``run(call)`` makes."""
    torch._dynamo.reset()
    graphs = []

    def keep(graph, inputs):
        graphs.append([str(n.target) for n in graph.graph.nodes if n.op == "call_function"])
        return make_boxed_func(graph.forward)

    run(torch.compile(model, fullgraph=True, backend=aot_autograd(fw_compiler=keep)))
    forward, backward = graphs
    return forward, backward


@contextmanager
def started_kernels(run=True):
    """Within it, the kernels that are started are counted by name; not started, if not to ``run``,
    so that what is computed means nothing."""
    counts, plain = Counter(), Launch.__call__

    def counted(self, *tensors):
        counts[self.kernel.fn.__name__] += 1
        return plain(self, *tensors) if run else None

    Launch.__call__ = counted
    try:
        yield counts
    finally:
        Launch.__call__ = plain


@contextmanager
def kept_bytes(inputs):
    """Within it, memory that is kept for a backward pass is counted, without that of ``inputs``."""
    own = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # Memory that is kept is given to nobody else, so that its address is its name.
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def peak_bytes(run):
    """Memory of the CPU that ``run()`` takes at most, beside what is there before."""
    with profile(profile_memory=True) as taken:
        run()
    events = taken.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(size for _, size in changes))
