"""Run the kernels' tests under NVIDIA's compute-sanitizer: accesses out of bounds, races.

    python tests/sanitizer.py                        # memcheck, then racecheck
    python tests/sanitizer.py --tools memcheck -- -k attention
    python tests/sanitizer.py --tools none           # only whether every kernel is started

The tests are those that compare kernels with references on small shapes. Whether they start every
kernel of the package is checked, too. Needs a GPU and compute-sanitizer, which comes with the CUDA
toolkit (``none`` needs neither: kernels then run in Triton's interpreter). Ends with 1 if a tool
found something, a test failed, or a kernel was not started.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
FILES = [f"unit/test_{name}_kernels.py" for name in (
    "attention", "batch_norm", "block", "norm_and_patch", "partial_sums", "resized_scores",
    "variable_length",
)]  # fmt: skip
#: What starts no other kernels and takes long: compilation, whole models.
LEFT_OUT = "not compile and not backbone and not opcheck"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck", "none")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=["memcheck", "racecheck"])
    parser.add_argument("pytest", nargs="*", help="after --: more arguments of pytest")
    arguments = parser.parse_args(argv)
    sanitizer = find()
    if sanitizer is None and set(arguments.tools) != {"none"}:
        parser.error("compute-sanitizer is neither in PATH nor in CUDA_HOME nor in /usr/local/cuda")
    results = {tool: run(tool, sanitizer, arguments.pytest) for tool in arguments.tools}
    for tool, status in results.items():
        print(f"{tool}: {'clean' if status == 0 else f'status {status}'}")
    return int(any(results.values()))


def find() -> str | None:
    """The program's path."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    places = [
        f"{home}/{folder}" for home in homes if home for folder in ("bin", "compute-sanitizer")
    ]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ["PATH"], *places]))


def run(tool: str, sanitizer: str | None, more: list[str]) -> int:
    """Status of the tests under one tool."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "helpers.started_kernels"]
    command += ["-p", "no:cacheprovider", "-k", LEFT_OUT, *(str(TESTS / name) for name in FILES)]
    prefix = []
    if tool != "none":
        prefix = [sanitizer, "--tool", tool, "--error-exitcode", "99", "--print-limit", "20"]
    # Memory that PyTorch keeps for later hides what lies beyond a tensor's end.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    )
    return subprocess.run([*prefix, *command, *more], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
