"""A recorder that needs no GPU, and a hook that records with it."""

import threading
from contextlib import contextmanager

from mmengine.registry import HOOKS

from swin_backbone.openmmlab.cuda_graph_hook import CudaGraphHook


class RunsAgain:
    """Records by remembering: a replay runs the function, on the same tensors.

    Attributes:
        recorded: functions that were recorded.
        replays: how often one was run again.
        rehearsing: whether one runs before it is recorded.
    """

    def __init__(self):
        self.recorded = self.replays = 0
        self.rehearsing = False

    @contextmanager
    def rehearsal(self, strict):
        self.rehearsing = True
        try:
            yield
        finally:
            self.rehearsing = False

    def record(self, function):
        self.recorded += 1

        def replay():
            self.replays += 1
            function()

        return replay

    def bytes_held(self):
        return 0


@HOOKS.register_module()
class StandInGraphHook(CudaGraphHook):
    """The hook, for runs on the CPU.

    Attributes:
        recorders: that it made.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.recorders = []

    def recorder(self, device):
        self.recorders.append(RunsAgain())
        return self.recorders[-1]


def in_between(module, run):
    """The module's forward, which has ``run`` run by a thread when it is called first."""
    forward = module.forward

    def call(*inputs):
        call.calls += 1
        if call.calls == 1:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        return forward(*inputs)

    call.calls = 0
    return call
