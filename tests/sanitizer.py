"""Run the kernels' tests under NVIDIA's compute-sanitizer: accesses out of bounds, races.

    python tests/sanitizer.py                        # memcheck, then racecheck
    python tests/sanitizer.py --tools memcheck --compiled -- -k streamed
    python tests/sanitizer.py --tools none           # only whether every kernel is started

The tests are a few of those that compare kernels with references on small shapes, and start every
kernel of the package, which is checked unless pytest picks some of them. They are spread over
processes, and run without a tool first, so that Triton has compiled everything. Needs a GPU and
compute-sanitizer, which comes with the CUDA toolkit (``none`` needs neither: kernels then run in
Triton's interpreter). Ends with 1 if a tool found something, a test failed, or a kernel was not
started.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

TESTS = Path(__file__).parent
#: By file, tests that together start every kernel, each about the smallest that starts its own.
CHOSEN = {
    "unit/test_attention_kernels.py": [
        "test_float32_agrees_with_float64_reference[size1-window_size4-shift_size4]",
        "test_windows_by_whole_rows_of_scores[False-window_size0-shift_size0]",
        "test_windows_larger_than_what_is_on_chip[False-window_size0-shift_size0]",
        "test_windows_larger_than_what_is_on_chip[False-window_size2-shift_size2]",
    ],
    "unit/test_variable_length_kernels.py": [
        "test_float32_agrees_with_float64_one_by_one[shift1-True-True]",
    ],
    "unit/test_norm_and_patch_kernels.py": [
        "test_merging_agrees_with_its_reference[size1-True-True]",
        "test_patch_embedding_agrees_with_its_reference[24-3-patch0-size0]",
    ],
    "unit/test_batch_norm_kernels.py": [
        "test_training[(8, (2, 5, 7))-3-True-dtype0-True]",
        "test_training[(8, (2, 5, 7))-1-True-dtype0-False]",
        "test_prediction[1-True-dtype0]",
        "test_prediction[3-False-dtype0]",
        "test_pools[(5, 7)]",
        "test_a_group_of_one_process[True-dtype0]",
    ],
    "unit/test_resized_scores_kernels.py": [
        "test_losses[sizes0-options0-False]",
        "test_losses[sizes7-options7-True]",
        "test_resize[5-low0-size0-False-False]",
        "test_resize[5-low0-size0-False-True]",
        "test_added[False]",
        "test_class_map[geometry0-7]",
    ],
    "unit/test_roi_align.py": ["test_as_torchvision[size1-2-True-triton]"],
    "unit/test_photometric.py": ["test_the_kernel_is_the_reference[size0-True-True]"],
    "unit/test_deformable_attention_kernels.py": [
        "test_result_and_gradients[dtype0-odd]",
        "test_the_same_bits_where_that_is_asked_for[dtype0-odd]",
    ],
    "unit/test_deformable_convolution.py": ["test_result_and_gradients[torch.float32-dilated]"],
    "unit/test_suppression.py": ["test_the_same_boxes[64-200-0.5-triton]"],
}
HALVES = ("attention", "mlp", "post_norm_attention", "post_norm_mlp")
#: And of a block's halves: in an interpreter, and on a card, where their kernels do not compute in
#: float32.
IN_AN_INTERPRETER = {
    "unit/test_block_kernels.py": [
        *(
            f"test_halves_agree_with_their_reference[run_{half}-{channels}]"
            for half in HALVES
            for channels in (48, 320)
        ),
        "test_mlp_on_chip_by_several_programs[64-False-path_scale1-run_mlp]",
        "test_mlp_on_chip_by_several_programs[64-False-path_scale1-run_post_norm_mlp]",
    ],
}
ON_A_CARD = {
    "gpu/test_block_grid.py": [
        *(
            f"test_halves_in_low_precision[run_{half}-{channels}-window_size0-shift_size0-dtype1]"
            for half in HALVES
            for channels in (96, 384)
        ),
        "test_halves_in_low_precision[run_attention-96-window_size2-shift_size2-dtype1]",
    ],
}
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck", "none")
#: Processes at a time, each with a context on the card.
MOST_PROCESSES = 8
#: Of pytest, that none of the tests was picked.
NO_TESTS = 5


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=["memcheck", "racecheck"])
    parser.add_argument("--compiled", action="store_true", help="kernels were compiled before")
    parser.add_argument("pytest", nargs="*", help="after --: more arguments of pytest")
    arguments = parser.parse_args(argv)
    sanitizer = find()
    if set(arguments.tools) != {"none"}:
        if sanitizer is None:
            parser.error(
                "compute-sanitizer is neither in PATH nor in CUDA_HOME nor in /usr/local/cuda"
            )
        if not arguments.compiled:
            print("compiling without a tool", flush=True)
            run("none", None, arguments.pytest)
    results = {tool: run(tool, sanitizer, arguments.pytest) for tool in arguments.tools}
    for tool, status in results.items():
        print(f"{tool}: {'clean' if status == 0 else f'status {status}'}", flush=True)
    return int(any(results.values()))


def find() -> str | None:
    """The program's path."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    places = [
        f"{home}/{folder}" for home in homes if home for folder in ("bin", "compute-sanitizer")
    ]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ["PATH"], *places]))


def chosen_tests() -> list[str]:
    """As pytest takes them."""
    files = CHOSEN | (ON_A_CARD if torch.cuda.is_available() else IN_AN_INTERPRETER)
    return [f"{TESTS / file}::{name}" for file, names in files.items() for name in names]


def environment() -> dict[str, str]:
    """What tests run in: with the kernels that are asked for only, and lines as they come."""
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    # Triton reads it when it is imported, by the plugin that counts kernels.
    interpreter = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    return {
        **os.environ,
        **interpreter,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }


def pytest_command(tests: list[str], more: list[str]) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-v", "--no-header", "--tb=short"]
    return [*command, "-p", "no:cacheprovider", "-p", "helpers.started_kernels", *tests, *more]


def run(tool: str, sanitizer: str | None, more: list[str]) -> int:
    """Status of the tests under one tool: the first that is not zero, or 1 if a kernel is left."""
    start, prefix, tests = time.monotonic(), [], chosen_tests()
    if tool != "none":
        prefix = [sanitizer, "--tool", tool, "--error-exitcode", "99", "--print-limit", "20"]
    # Memory that PyTorch keeps for later hides what lies beyond a tensor's end.
    variables = {**environment(), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    count = min(MOST_PROCESSES, max(1, len(os.sched_getaffinity(0)) // 2), len(tests))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(count) as threads:
        left = [Path(folder) / f"{i}.txt" for i in range(count)]
        running = [
            threads.submit(
                run_part,
                [*prefix, *pytest_command(tests[i::count], more)],
                {**variables, "SWIN_KERNELS_LEFT": str(left[i])},
            )
            for i in range(count)
        ]
        statuses = [part.result() for part in running]
        never = set.intersection(*(set(path.read_text().split()) for path in left if path.exists()))
    print(f"{tool} took {time.monotonic() - start:.0f} s", flush=True)
    if more:
        return next((status for status in statuses if status not in (0, NO_TESTS)), 0)
    print(f"never started: {', '.join(sorted(never)) or 'none'}", flush=True)
    return next((status for status in statuses if status), int(bool(never)))


def run_part(command: list[str], variables: dict[str, str]) -> int:
    """Status of one process, whose lines are printed whole and as they come."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=variables, **options) as process:
        for line in process.stdout:
            if not line.isspace():
                print(line, end="", flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
