"""The commands under ``tools/``: in this process, or as users run them."""

import importlib.util
import io
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from .paths import BENCHMARKS, TOOLS

#: Seconds after which a process counts as one that hangs: many times what any of these takes, since
#: a machine may be busy with other things.
HUNG = 900


def run_tool(name, *arguments, check=True, **environment):
    """Run ``tools/name`` in a process of its own, and say what it printed where it fails.

    A process imports torch and OpenMMLab for many seconds; see :func:`call_tool`.
    """
    program = str(_program(name))
    command = [program] if name.endswith(".sh") else [sys.executable, program]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=HUNG,
    )
    return _checked(done) if check else done


def call_tool(name, *arguments, check=True):
    """What :func:`run_tool` gives, by running the file as a program in this process."""
    command = [str(_program(name)), *map(str, arguments)]
    code = 0
    with (
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
        mock.patch.object(sys, "argv", command),
    ):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    done = subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())
    return _checked(done) if check else done


def torchrun(script, *arguments, environment=None):
    """Run a file in two processes, and say what it printed where it fails."""
    # Any free port: two workers of pytest may run the same file at the same time.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += [script, *arguments]
    return _checked(
        subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, timeout=HUNG
        )
    )


def _program(name):
    """Of ``tools/`` or ``benchmarks/``."""
    (path,) = (path for path in (TOOLS / name, BENCHMARKS / name) if path.is_file())
    return path


def _checked(done):
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def load_tool(name):
    """The module of ``tools/name.py``, freshly read."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
