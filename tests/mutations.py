"""Break the code on purpose, one place at a time, and say which test sees it.

    python tests/mutations.py                  # all of them: a table in Markdown
    python tests/mutations.py --only mask shift
    python tests/mutations.py --all            # with tests marked slow, as `make test-all`

The checkout stays as it is: each change is made in a copy of it. Only the test files that a change
concerns are run, until the first failure. The exit status is 1 if a change is seen by none.
``docs/lab/mutations.md`` has the last table.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutation(NamedTuple):
    """One change.

    Attributes:
        name: of the place, for ``--only``.
        what: the mistake, in words.
        file: where.
        old: the text that is there, once.
        new: what takes its place.
        tests: files below ``tests/``, or tests of one, that should see it, the quickest first.
    """

    name: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


OPS, MODEL = "swin_backbone/ops", "swin_backbone/model"
OPENMMLAB, CHECKPOINTS = "swin_backbone/openmmlab", "swin_backbone/checkpoints"

MUTATIONS = (
    Mutation(
        "mask",
        "the first row that was rolled over the border sees the other side",
        f"{OPS}/geometry/windows.py",
        "row_rolled = row >= grid.padded_height - grid.shift_size[0]",
        "row_rolled = row > grid.padded_height - grid.shift_size[0]",
        ("unit/test_attention.py",),
    ),
    Mutation(
        "shift",
        "windows are moved up and left",
        f"{OPS}/reference/window_steps.py",
        "x = torch.roll(x, grid.shift_size, dims=(1, 2))",
        "x = torch.roll(x, [-shift for shift in grid.shift_size], dims=(1, 2))",
        ("unit/test_attention.py",),
    ),
    Mutation(
        "valid-shift",
        "which tokens are valid is not shifted with the windows",
        f"{OPS}/geometry/windows.py",
        "valid = torch.roll(valid, [-shift for shift in grid.shift_size], dims=(1, 2))",
        "valid = torch.roll(valid, list(grid.shift_size), dims=(1, 2))",
        ("unit/test_mask_padding.py",),
    ),
    Mutation(
        "bias-index",
        "the bias table is read row by row of a window that is square",
        f"{OPS}/geometry/windows.py",
        "return row_offset * (2 * width - 1) + column_offset",
        "return row_offset * (2 * height - 1) + column_offset",
        ("unit/test_attention.py",),
    ),
    Mutation(
        "kernel-mask",
        "the attention kernel forgets the border between columns",
        f"{OPS}/triton/kernels/attention_kernels.py",
        "return rolled_down.to(tl.int32) * 2 + rolled_right.to(tl.int32)",
        "return rolled_down.to(tl.int32) * 2 + rolled_down.to(tl.int32)",
        ("unit/test_attention_kernels.py",),
    ),
    Mutation(
        "kernel-memory",
        "biases of pairs beyond a window are read, and not used",
        f"{OPS}/triton/kernels/attention_kernels.py",
        "bias = tl.load(table + index * heads + head, mask=inside, other=0.0)",
        "bias = tl.load(table + index * heads + head)",
        ("unit/test_attention_kernels.py",),
    ),
    Mutation(
        "cpu-padding",
        "on a CPU, tokens that fill up windows have a gradient of their own output",
        f"{OPS}/cpu/chunked_attention.py",
        "        _token_view(gradient)[_places(rows, tokens)] = 0\n",
        "",
        ("unit/test_cpu_paths.py", "unit/test_attention.py"),
    ),
    Mutation(
        "drop-path-scale",
        "what drop path keeps is not scaled, for the blocks of a stage together",
        f"{OPS}/path_scales.py",
        "return torch.bernoulli(keep_probs.expand(-1, _padded(images))).div_(divisors)",
        "return torch.bernoulli(keep_probs.expand(-1, _padded(images)))",
        ("unit/test_drop_path.py",),
    ),
    Mutation(
        "merging-order",
        "patch merging takes columns before rows",
        f"{OPS}/norm.py",
        "return _tiles(x).permute(0, 1, 3, 5, 2, 4).flatten(-3)",
        "return _tiles(x).permute(0, 1, 3, 5, 4, 2).flatten(-3)",
        ("unit/test_block_kernels.py", "integration/test_parity.py"),
    ),
    Mutation(
        "cosine-clamp",
        "factors of V2's cosine attention are not limited",
        f"{OPS}/position_bias.py",
        "return logit_scale.clamp(max=math.log(MAX_LOGIT_SCALE)).exp().flatten()",
        "return logit_scale.exp().flatten()",
        ("unit/test_backbone_v2.py", "integration/test_parity_libraries.py"),
    ),
    Mutation(
        "v2-norms",
        "blocks of V2 do not begin as the identity",
        "swin_backbone/model/backbone.py",
        "nn.init.zeros_(norm.weight)",
        "nn.init.ones_(norm.weight)",
        ("unit/test_backbone_v2.py", "unit/test_init_cfg.py"),
    ),
    Mutation(
        "ignore-index",
        "losses of resized scores ignore 255, whatever they are told",
        f"{OPS}/loss_terms.py",
        "counted = labels != self.ignore_index",
        "counted = labels != 255",
        ("unit/test_resized_losses.py",),
    ),
    Mutation(
        "class-weight",
        "a mean loss is divided by the number of pixels, not by the weights of their classes",
        f"{OPS}/loss_terms.py",
        "counted = counted * known * own.to(losses.dtype)",
        "counted = counted * known",
        ("unit/test_resized_losses.py",),
    ),
    Mutation(
        "argmax-crop",
        "padding is cut off at the right instead of the top",
        f"{OPS}/resized_argmax.py",
        "left, _, top, _ = geometry.padding",
        "left, top, _, _ = geometry.padding",
        ("unit/test_resized_argmax.py", "integration/test_accelerate_predictions.py"),
    ),
    Mutation(
        "revert",
        "taking acceleration back leaves the last rewrite",
        "swin_backbone/acceleration/acceleration_report.py",
        "while self._undos:",
        "while self._undos[1:]:",
        ("integration/test_accelerate_losses.py", "integration/test_accelerate_predictions.py"),
    ),
    Mutation(
        "translation",
        "timm's patch merging is looked for at the end of a stage",
        f"{CHECKPOINTS}/layouts/timm_layout.py",
        'downsample="layers.{s+1}.downsample"',
        'downsample="layers.{s}.downsample"',
        ("unit/test_checkpoints.py", "integration/test_layouts_of_libraries.py"),
    ),
    Mutation(
        "pickle-names",
        "a pickle may name what is not listed",
        f"{CHECKPOINTS}/safe_pickle.py",
        "            raise UnknownNameError(shown(full))\n\n    def _reduce",
        "            self.stack.append(StandIn(full, lambda *args: None))\n\n    def _reduce",
        ("unit/test_hostile_files.py", "unit/test_checkpoint_kinds.py"),
    ),
    Mutation(
        "pickle-budget",
        "a pickle may copy a long value without limit",
        f"{CHECKPOINTS}/safe_pickle.py",
        "_HANDLED, _HANDLED_BYTES = 32, 16 * 2**20",
        "_HANDLED, _HANDLED_BYTES = 32, 16 * 2**50",
        ("unit/test_hostile_files.py", "integration/test_hostile_checkpoints.py"),
    ),
    Mutation(
        "layer-decay",
        "the blocks of the second stage count from the first one's beginning",
        f"{OPENMMLAB}/layer_decay.py",
        "return sum(depths[:stage]) + index + 1",
        "return sum(depths[: stage - 1]) + index + 1",
        ("unit/test_openmmlab_layer_decay.py",),
    ),
    Mutation(
        "frozen-stages",
        "the output norm of the last frozen stage is trained",
        "swin_backbone/model/backbone.py",
        "norms = [self._output_norm(stage) for stage in range(self.frozen_stages)]",
        "norms = [self._output_norm(stage) for stage in range(self.frozen_stages - 1)]",
        ("unit/test_backbone.py",),
    ),
    Mutation(
        "packed-offsets",
        "merged tokens of an image with an odd number of rows lie over the next image's",
        f"{OPS}/geometry/packing.py",
        "merged += (height + 1) // 2 * merged_width",
        "merged += height // 2 * merged_width",
        ("unit/test_variable_length.py",),
    ),
    Mutation(
        "export-padding",
        "models are traced at a size that needs no padding of windows",
        "swin_backbone/inference/export/trace.py",
        "if tokens <= max(sides) or any(side > 1 and tokens % side == 0 for side in sides):",
        "if tokens <= max(sides):",
        ("integration/test_export.py::test_example_has_to_be_padded_at_every_step",),
    ),
    Mutation(
        "symbolic-crop",
        "an exported model pads its windows with zeros, not with the bias",
        f"{OPS}/reference/window_steps.py",
        "return torch.where((row[:, None] & column)[..., None], padded, fill)",
        "return padded",
        ("integration/test_export.py::test_a_trace_serves_every_size",),
    ),
    Mutation(
        "exit-status",
        "a user's mistake ends a command with 1",
        "swin_backbone/cli/commands.py",
        "STATUS = 2",
        "STATUS = 1",
        ("integration/test_commands.py",),
    ),
    Mutation(
        "config-name",
        "configs are not found by their names without a folder",
        "swin_backbone/config_files.py",
        '[known for known in names if known.rpartition("/")[2] == wanted],',
        '[known for known in names if known.rpartition("/")[0] == wanted],',
        ("unit/test_config_files.py",),
    ),
    Mutation(
        "orientation",
        "a WebP image that lies on its side (EXIF 5) is flipped and not turned",
        "swin_backbone/images.py",
        "if orientation >= 5:",
        "if orientation > 5:",
        ("unit/test_images.py",),
    ),
    Mutation(
        "atomic-write",
        "a finished file is copied to its place, and not renamed",
        "swin_backbone/atomic_files.py",
        "        os.replace(unfinished, path)\n    finally:\n        unfinished.unlink",
        "        shutil.copyfile(unfinished, path)\n    finally:\n        unfinished.unlink",
        ("integration/test_atomic_files.py",),
    ),
    Mutation(
        "low-precision",
        "a copy of a weight is taken though the weight has another shape by now",
        f"{OPS}/weight_copies.py",
        "copy is not None and copy.shape == weight.shape and copy.device == weight.device",
        "copy is not None and copy.device == weight.device",
        ("unit/test_low_precision.py",),
    ),
    Mutation(
        "step-seed",
        "every step draws the same random numbers",
        f"{OPENMMLAB}/step_seed.py",
        "seed_generators(int(runner.seed), get_rank(), int(runner.iter))",
        "seed_generators(int(runner.seed), get_rank(), 0)",
        ("integration/test_resume.py::test_a_steps_numbers_depend_on_seed_and_step_alone",),
    ),
    Mutation(
        "resumed-file",
        "a run goes on from the oldest checkpoint where the pointer names none",
        f"{OPENMMLAB}/resuming.py",
        "sorted(others, key=_age, reverse=True)",
        "sorted(others, key=_age)",
        ("integration/test_resume.py::test_the_newest_whole_checkpoint_is_found",),
    ),
    Mutation(
        "soft-nms",
        "linear soft suppression lowers boxes below the threshold too",
        f"{OPENMMLAB}/served_ops/suppression.py",
        "return torch.where(overlap >= self.threshold, lowered, torch.ones_like(overlap))",
        "return lowered",
        ("unit/test_openmmlab_served_boxes.py", "unit/test_openmmlab_served_ops.py"),
    ),
    Mutation(
        "crop-reach",
        "a crop that is resized alone does not see its left neighbour",
        f"{OPENMMLAB}/fast_data/cropped_resize.py",
        "nearest = max(first - math.ceil(0.5 / step), 0)",
        "nearest = first",
        ("integration/test_fast_data.py",),
    ),
    Mutation(
        "crop-draws",
        "a crop of few classes is not drawn again",
        f"{OPENMMLAB}/fast_data/load_resized_crop.py",
        "if len(counts) > 1 and counts.max() / counts.sum() < crop.cat_max_ratio:",
        "if len(counts) > 1 or counts.max() / counts.sum() < crop.cat_max_ratio:",
        ("integration/test_fast_data.py",),
    ),
    Mutation(
        "distortion-order",
        "contrast is drawn before saturation and hue, wherever it is applied",
        f"{OPENMMLAB}/fast_data/distortion.py",
        "contrast = self._contrast() if first else 1.0",
        "contrast = self._contrast()",
        ("integration/test_fast_data.py",),
    ),
    Mutation(
        "hue-wrap",
        "the kernel's hues do not go round",
        f"{OPS}/triton/kernels/photometric_kernels.py",
        "hue = tl.where(hue >= 180.0, hue - 180.0, hue)",
        "hue = tl.minimum(hue, 179.0)",
        ("unit/test_photometric.py",),
    ),
    Mutation(
        "deferred-losses",
        "losses that wait are not copied, so that a replayed graph overwrites them",
        f"{OPENMMLAB}/fast_data/deferred_logs.py",
        "row = torch.stack([value.detach().reshape(()) for value in values])",
        "row = values[0].detach().expand(len(values))",
        ("integration/test_fast_data.py",),
    ),
    Mutation(
        "graph accumulation",
        "a replayed step forgets the gradients that were there",
        "swin_backbone/graphs/gradients.py",
        "bucket.flat.add_(earlier)",
        "bucket.flat.add_(earlier, alpha=0)",
        ("unit/test_graphed_losses.py",),
    ),
    Mutation(
        "graph rehearsal",
        "passes before the capture change the running statistics",
        "swin_backbone/graphs/training_state.py",
        "buffer.data.copy_(value)",
        "value.copy_(buffer)",
        ("unit/test_graphed_losses.py",),
    ),
    Mutation(
        "points",
        "a point beyond the left border reads the end of the row above",
        f"{OPS}/triton/kernels/deformable_attention_kernels.py",
        """                    known = (column + right >= 0) & (column + right < width)
                    known &= (line + below >= 0) & (line + below < height) & (at < keys)
                    part =""",
        """                    known = column + right < width
                    known &= (line + below >= 0) & (line + below < height) & (at < keys)
                    part =""",
        ("unit/test_deformable_attention_kernels.py::test_result_and_gradients",),
    ),
    Mutation(
        "points beside a map",
        "a point one pixel beside the map has no slope",
        f"{OPS}/triton/kernels/deformable_attention_kernels.py",
        "near &= (x >= -1.0) & (y >= -1.0)",
        "near &= (x > -1.0) & (y > -1.0)",
        ("unit/test_deformable_convolution.py::test_zeros_have_the_slopes_of_torchvision",),
    ),
    Mutation(
        "offsets",
        "gradients of offsets come as x twice",
        f"{OPS}/triton/kernels/deformable_convolution_kernels.py",
        "tl.store(grad_offset + target, y, mask=live)",
        "tl.store(grad_offset + target, x, mask=live)",
        ("unit/test_deformable_convolution.py::test_result_and_gradients",),
    ),
    Mutation(
        "processes that compile",
        "the first process lets the others go before it has compiled",
        "swin_backbone/openmmlab/compile_ahead_hook.py",
        "None if is_first else barrier)",
        "barrier if is_first else None)",
        ("unit/test_compile_ahead.py::test_processes_wait_for_the_first",),
    ),
    Mutation(
        "points of a pixel",
        "a value leaves out the points of the row above it",
        f"{OPS}/triton/kernels/deformable_attention_kernels.py",
        "upper = line - 1 + below",
        "upper = line + below",
        ("unit/test_deformable_attention_kernels.py::test_the_same_bits_where_that_is_asked_for",),
    ),
    Mutation(
        "suppression",
        "a box that meets the threshold exactly goes",
        f"{OPS}/triton/kernels/suppression_kernels.py",
        "area_2[None, :] - common) > threshold",
        "area_2[None, :] - common) >= threshold",
        ("unit/test_suppression.py::test_a_threshold_that_is_met_exactly",),
    ),
    Mutation(
        "regions",
        "samples beyond the border count in RoI align",
        f"{OPS}/triton/kernels/roi_align_kernels.py",
        "total += tl.where(known, part, 0.0)",
        "total += part",
        ("unit/test_roi_align.py::test_as_torchvision",),
    ),
    Mutation(
        "assigners",
        "of objects that share their best box the first gets it",
        "swin_backbone/acceleration/mmdet_assigners.py",
        "numbers[:, None], 0).amax(0)",
        "numbers[:, None], 0).flip(0).argmax(0)",
        ("unit/test_accelerate_detectors.py::test_assigners",),
    ),
    Mutation(
        "drawn anchors",
        "losses of the second image take the first one's scores",
        "swin_backbone/acceleration/mmdet_rpn_losses.py",
        "(one + image * len(anchors) for one in found)",
        "found",
        ("integration/test_accelerate_whole_detectors.py::test_losses_of_proposals",),
    ),
    Mutation(
        "anchors that count",
        "anchors are drawn by their places among those that count",
        "swin_backbone/acceleration/mmdet_rpn_losses.py",
        "found = [counted[image][one] for one in found]",
        "found = list(found)",
        ("integration/test_accelerate_whole_detectors.py::test_losses_of_proposals",),
    ),
    Mutation(
        "anchors with an object",
        "a batch is divided by as many anchors as have an object, without at least one an image",
        "swin_backbone/acceleration/mmdet_assigned_anchors.py",
        "max(len(one), 1)",
        "len(one)",
        ("unit/test_accelerate_anchor_losses.py::test_the_same_losses",),
    ),
    Mutation(
        "candidates of an object",
        "the middle of an anchor may lie beside its object",
        "swin_backbone/acceleration/mmdet_atss_assigners.py",
        " & _are_within(boxes, objects, places)",
        "",
        ("unit/test_accelerate_atss.py::test_assignment",),
    ),
    Mutation(
        "predictions of two objects",
        "a prediction that two objects want stays with both",
        "swin_backbone/acceleration/mmdet_rtmdet_assigners.py",
        "matched.sum(1, keepdim=True) > 1",
        "matched.sum(1, keepdim=True) > 2",
        ("unit/test_accelerate_rtmdet.py::test_matching",),
    ),
    Mutation(
        "moved boxes",
        "boxes move by targets in 16 bits, times a deviation in 32",
        "swin_backbone/acceleration/mmdet_box_targets.py",
        "part = part * deviation",
        "part = part * coder.stds[first]",
        ("unit/test_accelerate_box_numbers.py::test_boxes_of_targets",),
    ),
    Mutation(
        "refined boxes",
        "objects that were drawn as boxes stay, and boxes with an object go",
        "swin_backbone/acceleration/mmdet_refined_boxes.py",
        "torch.cat([1 - flags,",
        "torch.cat([flags,",
        ("unit/test_accelerate_refined_boxes.py::test_the_same_boxes",),
    ),
    Mutation(
        "drawn boxes",
        "boxes of one image are drawn among those of all",
        "swin_backbone/acceleration/mmdet_sampling.py",
        "order[middle:end] - first",
        "order[middle:end]",
        ("unit/test_accelerate_sampling.py::test_images_of_different_sizes_and_without_objects",),
    ),
    Mutation(
        "boxes with an object",
        "boxes of the second image are looked for behind the first one's objects",
        "swin_backbone/acceleration/mmdet_box_losses.py",
        "many + len(result.neg_priors)",
        "many",
        ("unit/test_accelerate_box_losses.py::test_the_same_losses",),
    ),
    Mutation(
        "proposals of a batch",
        "boxes that are too small are proposed",
        "swin_backbone/acceleration/mmdet_suppression.py",
        "valid & _stays(",
        "_stays(",
        ("integration/test_accelerate_whole_detectors.py::test_proposals",),
    ),
    Mutation(
        "objects of queries",
        "masks at points are compared with other objects than those they were matched with",
        "swin_backbone/acceleration/mmdet_mask_losses.py",
        "transpose(0, 1)[layer, rows.objects]",
        "transpose(0, 1)[layer, rows.place]",
        ("unit/test_accelerate_mask2former.py::test_losses",),
    ),
    Mutation(
        "values of masks",
        "masks that hold other values than zeros and ones go as bits, too",
        "swin_backbone/acceleration/packed_bitmaps.py",
        'name in DTYPES and (name == "bool" or bitmaps.max() <= 1)',
        "name in DTYPES",
        ("unit/test_packed_bitmaps.py",),
    ),
    Mutation(
        "bits of masks",
        "of eight pixels the last comes first",
        "swin_backbone/acceleration/packed_bitmaps.py",
        "torch.arange(7, -1, -1, dtype",
        "torch.arange(8, dtype",
        ("unit/test_packed_bitmaps.py",),
    ),
    Mutation(
        "objects of polygons",
        "masks of polygons are read as bitmaps",
        "swin_backbone/acceleration/mmdet_object_masks.py",
        "if type(gt.masks) is bitmaps]",
        "if len(gt.labels)]",
        ("unit/test_accelerate_object_masks.py",),
    ),
    Mutation(
        "bias of three projections",
        "queries and values of other libraries' blocks lose their bias",
        "swin_backbone/acceleration/swin/halves.py",
        "zeros if b is None else b for b in biases",
        "zeros for b in biases",
        ("integration/test_accelerate_encoders.py::test_encoders_compute_the_same",),
    ),
    Mutation(
        "shift before filling up, kernels",
        "kernels fill up a map before they shift it",
        f"{OPS}/triton/attention_cut.py",
        "any(sizes[4:])",
        "False",
        ("unit/test_rolled_first.py",),
    ),
    Mutation(
        "patch merging by column",
        "the merging kernels read neighbours row by row",
        f"{OPS}/triton/kernels/norm_kernels.py",
        "down, right = right, down",
        "pass",
        ("unit/test_norm_and_patch_kernels.py::test_merging_agrees_with_its_reference",),
    ),
    Mutation(
        "shift before filling up",
        "timm's blocks fill up their maps before the shift",
        "swin_backbone/acceleration/swin/timm_blocks.py",
        "rolls_first=True",
        "rolls_first=False",
        ("integration/test_accelerate_encoders.py::test_encoders_compute_the_same",),
    ),
    Mutation(
        "hooks inside of a block",
        "nobody asks whether a block's modules are watched",
        "swin_backbone/acceleration/swin/block_rewrite.py",
        "return not _is_watched(block)",
        "return True",
        ("integration/test_accelerate_encoders.py::test_hooks_inside_a_block_see_what_they_saw",),
    ),
    Mutation(
        "shards",
        "tensors of a checkpoint are not spread as parameters are",
        "swin_backbone/model/sharding.py",
        "return copies.redistribute(mesh, like.placements)",
        "return tensor",
        ("unit/test_sharding.py",),
    ),
    Mutation(
        "drop path of shards",
        "blocks that are sharded draw other random numbers than whole ones",
        "swin_backbone/model/stage.py",
        "computes and kind.forward is CheckpointedBlock.forward",
        "kind in (SwinBlock, SwinBlockV2)",
        ("unit/test_sharding.py",),
    ),
    Mutation(
        "processes without pixels",
        "a process without pixels counts as one with a spread of zero",
        f"{OPS}/triton/kernels/batch_norm_kernels.py",
        "mask=mask & (count > 0.0), other=1.0)",
        "mask=mask, other=1.0)",
        ("unit/test_batch_norm_kernels.py",),
    ),
    Mutation(
        "gradients of all processes",
        "a norm over processes tells the others the gradient of its weight",
        f"{OPS}/triton/synchronized_norm_op.py",
        "told = torch.cat([of_bias, of_weight / statistics[channels : 2 * channels]])",
        "told = torch.cat([of_bias, of_weight])",
        ("integration/test_synchronized_norms.py",),
    ),
    Mutation(
        "deferred norms",
        "of norms that were deferred, the first is logged again",
        f"{OPENMMLAB}/fast_data/deferred_logs.py",
        "return _defer(norm, wrapper.message_hub.log_scalars, ledger).get(name)",
        "return _defer(norm, wrapper.message_hub.log_scalars, ledger).get(name, norm[name])",
        ("unit/test_deferred_logs.py",),
    ),
    Mutation(
        "denoising queries",
        "denoising queries see those of other groups",
        "swin_backbone/acceleration/mmdet_denoising_queries.py",
        "return (group >= 0) & (group != group[:, None])",
        "return (group >= 0) & (group[:, None] < 0)",
        ("unit/test_accelerate_denoising_queries.py",),
    ),
    Mutation(
        "copies of gathered parameters",
        "a graph reads the weights that it was recorded with",
        "swin_backbone/graphs/module_graph.py",
        "if self._copies is not None:",
        "if self._copies is None:",
        ("unit/test_sharding.py",),
    ),
    Mutation(
        "a backbone gathered in 16 bits",
        "outside of autocast maps stay in 16 bits",
        "swin_backbone/model/sharding.py",
        "[_cast(one, dtype, own) for one in maps]",
        "[_cast(one, dtype, dtype) for one in maps]",
        ("unit/test_sharding.py",),
    ),
)


def copy_checkout(to: Path, root: Path = ROOT) -> None:
    """The files that git knows or does not ignore."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)


def first_failure(folder: Path, tests: tuple[str, ...], slow: bool) -> str | None:
    """The first test that fails, or ``None``."""
    files = [str(Path("tests", test)) for test in tests]
    missing = [file for file in files if not (folder / file.partition("::")[0]).is_file()]
    if missing:
        raise SystemExit(f"there is no {', '.join(missing)}")
    chosen = [] if slow else ["-m", "not slow"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *chosen, *files],
        cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if failed is None:
        raise SystemExit(
            f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}"
        )
    return failed.group(1).removeprefix("tests/")


def try_out(mutation: Mutation, folder: Path, slow: bool) -> str | None:
    """Make the change in a copy, run its tests, and take it back."""
    path = folder / mutation.file
    before = path.read_text()
    if before.count(mutation.old) != 1:
        count = before.count(mutation.old)
        raise SystemExit(f"{mutation.name}: {count} times in {mutation.file}: {mutation.old!r}")
    path.write_text(before.replace(mutation.old, mutation.new))
    try:
        return first_failure(folder, mutation.tests, slow)
    finally:
        path.write_text(before)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of them, by name")
    parser.add_argument("--all", action="store_true", help="run tests marked slow too")
    args = parser.parse_args(argv)
    known = {mutation.name: mutation for mutation in MUTATIONS}
    if not set(args.only or ()) <= set(known):
        parser.error(f"known are {', '.join(known)}")
    unseen = 0
    print("| Place | Change | Seen by |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        copy_checkout(Path(folder))
        for name in args.only or known:
            seen_by = try_out(known[name], Path(folder), args.all)
            unseen += seen_by is None
            result = f"`{seen_by}`" if seen_by else "**none**"
            print(f"| `{known[name].file}` | {known[name].what} | {result} |", flush=True)
    return int(unseen > 0)


if __name__ == "__main__":
    raise SystemExit(main())
