"""mmpretrain's configs of Swin classifiers with the type swapped, against its own backbones."""

import copy
from pathlib import Path

import pytest
import torch
from helpers.peers import import_mmpretrain, randomise
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import swin_backbone  # noqa: F401  (registers)
from swin_backbone.openmmlab.classifiers import SwinClassifierBackbone, SwinClassifierBackboneV2

SWAPPED = {
    "SwinTransformer": "SwinClassifierBackbone",
    "SwinTransformerV2": "SwinClassifierBackboneV2",
}
#: mmengine cannot read these: they change a pipeline that their base does not have.
BROKEN = {f"swinv2-{size}-w12_8xb128_in21k-192px.py" for size in ("base", "large")}
FOLDERS = ("swin_transformer", "swin_transformer_v2", "simmim/benchmarks", "glip")
SMALL = {"embed_dims": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]}


@pytest.fixture(autouse=True)
def scope():
    """Names are mmpretrain's, whatever scope an earlier test has left."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        yield


@pytest.fixture(scope="module")
def configs():
    """Model of each config of a classifier with a Swin backbone, by file name."""
    package = Path(import_mmpretrain().__file__).parents[2]
    files = [
        file
        for folder in FOLDERS
        for file in sorted((package / ".mim/configs" / folder).glob("*.py"))
    ]
    models = {
        file.name: Config.fromfile(file, import_custom_modules=False).model.to_dict()
        for file in files
        if file.name not in BROKEN
    }
    return {name: model for name, model in models.items() if model["backbone"]["type"] in SWAPPED}


@pytest.fixture(scope="module")
def backbones(configs):
    """Arguments of the different backbones among these, with the file names."""
    found = {}
    for name, model in configs.items():
        model["backbone"].pop("init_cfg", None)  # addresses of weights, or an empty one to fill in
        found.setdefault(repr(model["backbone"]), (model["backbone"], []))[1].append(name)
    return list(found.values())


def build_pair(arguments):
    """mmpretrain's backbone and ours from one config."""
    import mmpretrain.registry

    swapped = {**arguments, "type": SWAPPED[arguments["type"]]}
    build = mmpretrain.registry.MODELS.build
    return [build(copy.deepcopy(cfg)) for cfg in (arguments, swapped)]


def small_arch(arguments):
    return {**SMALL, **({"extra_norm_every_n_blocks": 2} if "V2" in arguments["type"] else {})}


def test_every_config_is_there(configs, backbones):
    """Seven of V1 and ten of V2, three that fine-tune SimMIM's and two of GLIP's without head."""
    assert len(configs) == 22
    assert len(backbones) > 10


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_maps_are_those_of_mmpretrain(backbones, version):
    """In float64, of the size in the config and of one that its windows do not divide."""
    for arguments, names in backbones:
        if ("V2" in arguments["type"]) != (version == "V2"):
            continue
        theirs, ours = build_pair({**arguments, "arch": small_arch(arguments)})
        randomise(theirs)
        theirs.double().eval()
        ours.double().eval().load_state_dict(theirs.state_dict())
        side = arguments["img_size"]
        small = ours.window_sizes[0] <= (8, 8)
        for size in [(side, side), *([(side + 4, side - 20)] if small else [])]:
            images = torch.randn(1, 3, *size, dtype=torch.float64)
            with torch.no_grad():
                expected, found = theirs(images), ours(images)
            assert isinstance(found, tuple)
            assert len(found) == len(expected)
            for a, b in zip(found, expected, strict=True):
                # The coordinates behind V2's position bias are float32 in mmpretrain.
                tolerance = 1e-9 if version == "V1" else 1e-5
                assert (a - b).abs().max() < tolerance, (names, size)


@pytest.mark.parametrize(
    "name", ["swin-tiny_16xb64_in1k.py", "swinv2-tiny-w16_16xb64_in1k-256px.py"]
)
def test_a_classifier_trains_and_predicts(configs, name):
    import mmpretrain.registry
    from mmpretrain.structures import DataSample

    cfg = copy.deepcopy(configs[name])
    backbone = cfg["backbone"]
    backbone.update(type=SWAPPED[backbone["type"]], arch=small_arch(backbone))
    cfg["head"].update(in_channels=64, num_classes=5)
    model = mmpretrain.registry.MODELS.build(cfg)
    model.init_weights()
    images = torch.randn(2, 3, 64, 64)  # maps that mmpretrain refuses as too small
    samples = [DataSample().set_gt_label(label) for label in (1, 3)]
    model.loss(images, samples)["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    predicted = model.eval().predict(images, samples)
    assert predicted[0].pred_score.shape == (5,)


def test_names_of_architectures():
    backbones = import_mmpretrain()
    for kind, swapped in SWAPPED.items():
        for name, arch in getattr(backbones, kind).arch_zoo.items():
            with torch.device("meta"):
                model = MODELS.build({"type": swapped, "arch": name.title()})
            every = arch.get("extra_norm_every_n_blocks", 0)
            extra = sum(depth // every for depth in arch["depths"]) if every else 0
            assert model.num_features[0] == arch["embed_dims"]
            assert list(model.depths) == arch["depths"]
            assert [stage.blocks[0].attn.num_heads for stage in model.stages] == arch["num_heads"]
            norms = [key for key in model.state_dict() if key.endswith(".norm3.weight")]
            assert len(norms) == extra


@pytest.mark.parametrize(
    "options",
    [
        {"use_abs_pos_embed": True, "img_size": (224, 192)},
        {"stage_cfgs": [{"block_cfgs": {"window_size": size}} for size in (7, 5, 3, 2)]},
        {"stage_cfgs": {"window_size": 4}, "pad_small_map": True},
        {"frozen_stages": 0, "norm_eval": True},
        {"frozen_stages": 2, "drop_rate": 0.5},
        {"out_indices": (0, 2, 3), "patch_size": 2, "in_channels": 4},
    ],
)
def test_arguments_mean_what_they_mean_in_mmpretrain(options):
    theirs, ours = build_pair({"type": "SwinTransformer", "arch": SMALL, **options})
    for model in (theirs, ours):
        model.train()
        model.trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        model.rates = sum(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))
        model.double().eval()
    assert theirs.trained == ours.trained
    assert theirs.rates == ours.rates
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, options.get("in_channels", 3), 224, 240, dtype=torch.float64)
    with torch.no_grad():
        for found, expected in zip(ours(images), theirs(images), strict=True):
            # mmpretrain interpolates position embeddings in float32.
            tolerance = 1e-5 if "use_abs_pos_embed" in options else 1e-9
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=tolerance)


def test_layers_for_learning_rate_decay_are_mmpretrains():
    theirs, ours = build_pair({"type": "SwinTransformer", "arch": SMALL, "use_abs_pos_embed": True})

    def layers(model):
        return [
            model.get_layer_depth("backbone." + name, "backbone.")
            for name, _ in model.named_parameters()
        ]

    assert layers(ours) == layers(theirs)  # parameters come in one order
    assert ours.get_layer_depth("head.fc.weight", "backbone.") == (9, 10)


@pytest.mark.parametrize("backbone", [SwinClassifierBackbone, SwinClassifierBackboneV2])
@pytest.mark.parametrize(
    "options",
    [
        {"arch": "medium"},
        {"arch": {"embed_dims": 8}},
        {"out_after_downsample": True},
        {"interpolate_mode": "bilinear"},
        {"norm_cfg": None},
        {"patch_cfg": {"stride": 2}},
        {"stage_cfgs": {"downsample_cfg": {"kernel_size": 3}}},
        {"stage_cfgs": {"block_cfgs": {"ffn_ratio": 2}}},
        {"stage_cfgs": [{}]},
        {"window_size": (7, 7)},
        {"drop_rate": 1.5},
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(backbone, options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        backbone(**options)
