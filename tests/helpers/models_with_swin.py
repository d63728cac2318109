"""Every model of the libraries that holds a Swin, small, with random weights.

Two stages have shifted windows, and the others blocks of one window.
"""

from functools import partial

import pytest
import torch
import torch.fx

from .peers import import_mmpose, import_mmpretrain, randomise

SIZES = {"embed_dims": 8, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8), "window_size": 2}
IMAGE = 64  # maps of 16, 8, 4 and 2 tokens: no shifted window covers one, so all rules agree
HEAD = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 4}
HEAD |= {
    f"{part}_{what}": 16 if what == "ffn_dim" else 2
    for part in ("encoder", "decoder")
    for what in ("ffn_dim", "attention_heads")
}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
TEXT |= {"intermediate_size": 16}


def swin_config(kind="Swin", **options):
    import transformers

    sizes = {"embed_dim": 8, "depths": [2, 2, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 2}
    sizes |= options
    stages = [f"stage{number + 1}" for number in range(len(sizes["depths"]))]
    return getattr(transformers, f"{kind}Config")(image_size=IMAGE, out_features=stages, **sizes)


def alone(model, kind="Swin", **options):
    import transformers

    return getattr(transformers, model)(swin_config(kind, **options))


def around(model, kind="Swin", **options):
    """A model of transformers whose config has a ``backbone_config``."""
    import transformers

    model = getattr(transformers, model)
    return model(model.config_class(backbone_config=swin_config(kind), **options))


def maskformer():
    import transformers

    decoder = transformers.DetrConfig(**HEAD)
    return around(
        "MaskFormerForInstanceSegmentation", decoder_config=decoder, fpn_feature_size=32,
        mask_feature_size=32,
    )  # fmt: skip


def depth_by_v2():
    """Without the last ReLU, which makes zeros of all that random weights give."""
    model = around("DPTForDepthEstimation", "Swinv2", **DPT)
    model.head.head[-1] = torch.nn.Identity()
    return model


def grounding(model):
    import transformers

    text = transformers.BertConfig(**TEXT)
    return around(model, text_config=text, decoder_self_attn_pos="none", **HEAD)


def timm_inside(**options):
    """transformers' wrapper of timm's features; timm's models are made by name."""
    import transformers

    config = transformers.TimmBackboneConfig(
        backbone="swin_tiny_patch4_window7_224", features_only=True, **options
    )
    return transformers.TimmBackbone(config, **TIMM)


def omdet_turbo():
    import transformers

    text = transformers.CLIPTextConfig(**TEXT, projection_dim=16, max_position_embeddings=8)
    config = transformers.OmDetTurboConfig(
        text_config=text,
        backbone_config=transformers.TimmBackboneConfig(
            backbone="swin_tiny_patch4_window7_224", out_indices=[1, 2, 3]
        ),
        **OMDET,
    )
    config.timm_kwargs = TIMM
    return transformers.OmDetTurboForObjectDetection(config)


def encoder_decoder(kind):
    import transformers

    encoder = alone(f"{kind}Model", kind)
    decoder = transformers.BertLMHeadModel(
        transformers.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
    )
    return transformers.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)


def dual_encoder():
    import transformers

    text = transformers.BertModel(transformers.BertConfig(**TEXT))
    return transformers.VisionTextDualEncoderModel(vision_model=alone("SwinModel"), text_model=text)


M2F = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16}
M2F |= {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 16}
M2F |= {"num_queries": 4}
ONEFORMER = {"hidden_dim": 32, "conv_dim": 32, "mask_dim": 32, "encoder_layers": 1}
ONEFORMER |= {"text_encoder_width": 32, "text_encoder_num_layers": 1, "text_encoder_vocab_size": 32}
ONEFORMER |= {"decoder_layers": 2, "dim_feedforward": 16, "encoder_feedforward_dim": 16}
ONEFORMER |= {"num_queries": 4}
TIMM = {"embed_dim": 8, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8), "window_size": 2}
TIMM |= {"img_size": IMAGE}
OMDET = {"encoder_hidden_dim": 32, "decoder_hidden_dim": 32, "decoder_num_layers": 1}
OMDET |= {"encoder_in_channels": [16, 32, 64], "vision_features_channels": [32, 32, 32]}
OMDET |= {"encoder_dim_feedforward": 16, "decoder_dim_feedforward": 16}
OMDET |= {"task_encoder_hidden_dim": 16, "num_queries": 4, "class_embed_dim": 16}
OMDET |= {"text_projection_in_dim": 16, "text_projection_out_dim": 16}
DPT = {"hidden_size": 16, "neck_hidden_sizes": [8, 16, 32, 64], "fusion_hidden_size": 8}
DPT |= {"reassemble_factors": [1, 1, 1, 1], "is_hybrid": False}
UPERNET = {"hidden_size": 16, "auxiliary_channels": 8, "auxiliary_in_channels": 32}


def make_timm(version, wrap=lambda model: model, **options):
    import timm

    module, name = ("swin_transformer", "SwinTransformer")
    if version == "v2":
        module, name = f"{module}_v2", f"{name}V2"
    return wrap(getattr(getattr(timm.models, module), name)(**TIMM, **options))


def features_only(version):
    import timm

    name = {"v1": "swin_tiny_patch4_window7_224", "v2": "swinv2_tiny_window8_256"}[version]
    return timm.create_model(name, features_only=True, **TIMM)


def openmmlab_timm(package):
    from importlib import import_module

    if package == "mmpretrain":
        backbones = import_mmpretrain()
    else:
        backbones = import_module(f"{package}.models.backbones")
    return backbones.TIMMBackbone("swin_tiny_patch4_window7_224", pretrained=False, **TIMM)


def make_torchvision(version):
    from torchvision.models import swin_transformer as swin

    v2 = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return swin.SwinTransformer(
        [4, 4], 8, [2, 2, 1, 1], [1, 2, 4, 8], [2, 2], **(v2 if version == "v2" else {})
    )


def torchvision_extractor(version):
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(make_torchvision(version), ["features.1", "features.7"])


def stock(package, **options):
    from importlib import import_module

    backbones = import_module(f"{package}.models.backbones")
    return backbones.SwinTransformer(**SIZES, **options)


def mmpose():
    return import_mmpose().SwinTransformer(**SIZES)


MMPRETRAIN_ARCH = {"embed_dims": 8, "depths": [2, 2, 1, 1], "num_heads": [1, 2, 4, 8]}


def mmpretrain(name="SwinTransformer", **options):
    backbones = import_mmpretrain()
    arch = dict(MMPRETRAIN_ARCH)
    if name == "SwinTransformerV2":
        arch["extra_norm_every_n_blocks"] = 2
    options = {"img_size": IMAGE, "window_size": 2, **options}
    return getattr(backbones, name)(arch, **options)


def simmim():
    import_mmpretrain()
    from mmpretrain.models.selfsup.simmim import SimMIMSwinTransformer

    stages = {"block_cfgs": {"window_size": 2}}
    return SimMIMSwinTransformer(MMPRETRAIN_ARCH, img_size=IMAGE, stage_cfgs=stages)


ALL = {"out_indices": (0, 1, 2, 3)}
V2 = {"version": "v2"}
EXTRA = {"extra_norm_every_n_blocks": 2}
POSITIONS = {"use_abs_pos_embed": True}
MAPS = {"output_norms": False}  # the model's maps are what its stages give
CASES = {
    # transformers
    "SwinModel": (partial(alone, "SwinModel"), MAPS),
    "SwinModel with positions": (
        partial(alone, "SwinModel", use_absolute_embeddings=True),
        MAPS | POSITIONS,
    ),
    "SwinModel without bias": (
        partial(alone, "SwinModel", qkv_bias=False),
        MAPS | {"qkv_bias": False},
    ),
    "SwinForImageClassification": (partial(alone, "SwinForImageClassification"), MAPS),
    "SwinForMaskedImageModeling": (partial(alone, "SwinForMaskedImageModeling"), MAPS),
    "TimmBackbone": (partial(timm_inside, out_indices=(0, 1, 2, 3)), MAPS),
    "SwinBackbone": (partial(alone, "SwinBackbone"), {}),
    "MaskFormerSwinModel": (partial(alone, "MaskFormerSwinModel", "MaskFormerSwin"), MAPS),
    "MaskFormerSwinBackbone": (partial(alone, "MaskFormerSwinBackbone", "MaskFormerSwin"), {}),
    "MaskFormer": (maskformer, {}),
    "Mask2Former": (partial(around, "Mask2FormerForUniversalSegmentation", **M2F), {}),
    "OneFormer": (partial(around, "OneFormerForUniversalSegmentation", **ONEFORMER), {}),
    "UperNet": (partial(around, "UperNetForSemanticSegmentation", **UPERNET), {}),
    "DPT": (partial(around, "DPTForDepthEstimation", **DPT), {}),
    "DETR": (partial(around, "DetrForObjectDetection", **HEAD), {}),
    "DeformableDETR": (partial(around, "DeformableDetrForObjectDetection", **HEAD), {}),
    "GroundingDINO": (partial(grounding, "GroundingDinoForObjectDetection"), {}),
    "MMGroundingDINO": (partial(grounding, "MMGroundingDinoForObjectDetection"), {}),
    "OmDetTurbo": (omdet_turbo, {"out_indices": (1, 2, 3)}),
    "encoder and decoder": (partial(encoder_decoder, "Swin"), MAPS),
    "image and text": (dual_encoder, MAPS),
    "DonutSwinModel": (partial(alone, "DonutSwinModel", "DonutSwin"), MAPS),
    "DonutSwinForImageClassification": (
        partial(alone, "DonutSwinForImageClassification", "DonutSwin"),
        MAPS,
    ),
    "Donut": (partial(encoder_decoder, "DonutSwin"), MAPS),
    "Swinv2Model": (partial(alone, "Swinv2Model", "Swinv2"), V2 | MAPS),
    "Swinv2ForImageClassification": (
        partial(alone, "Swinv2ForImageClassification", "Swinv2"),
        V2 | MAPS,
    ),
    "Swinv2ForMaskedImageModeling": (
        partial(alone, "Swinv2ForMaskedImageModeling", "Swinv2"),
        V2 | MAPS,
    ),
    "Swinv2Backbone": (partial(alone, "Swinv2Backbone", "Swinv2"), V2 | MAPS),
    "UperNet, V2": (
        partial(around, "UperNetForSemanticSegmentation", "Swinv2", **UPERNET),
        V2 | MAPS,
    ),
    "DPT, V2": (depth_by_v2, V2 | MAPS),
    # timm, alone and in the wrappers of others
    "timm": (partial(make_timm, "v1"), MAPS),
    "timm, V2": (partial(make_timm, "v2"), V2 | MAPS),
    "timm, features": (partial(features_only, "v1"), MAPS),
    "timm, features, V2": (partial(features_only, "v2"), V2 | MAPS),
    "mmseg's TIMMBackbone": (partial(openmmlab_timm, "mmseg"), MAPS),
    # torchvision
    "torchvision": (partial(make_torchvision, "v1"), MAPS),
    "torchvision, V2": (partial(make_torchvision, "v2"), V2 | MAPS),
    "torchvision, extractor": (
        partial(torchvision_extractor, "v1"),
        MAPS | {"out_indices": (0, 3)},
    ),
    # OpenMMLab
    "mmseg": (partial(stock, "mmseg"), {}),
    "mmdet": (partial(stock, "mmdet"), {}),
    "mmseg, no bias": (partial(stock, "mmseg", qkv_bias=False), {"qkv_bias": False}),
    "mmdet, no norm of patches": (partial(stock, "mmdet", patch_norm=False), {"patch_norm": False}),
    "mmseg, positions": (
        partial(stock, "mmseg", use_abs_pos_embed=True, pretrain_img_size=IMAGE),
        POSITIONS,
    ),
    "mmdet, some maps": (partial(stock, "mmdet", out_indices=(1, 3)), {"out_indices": (1, 3)}),
    "mmpose": (mmpose, {}),
    "mmpretrain": (partial(mmpretrain, **ALL), {}),
    "mmpretrain, positions": (partial(mmpretrain, use_abs_pos_embed=True, **ALL), POSITIONS),
    "mmpretrain, classifier's": (mmpretrain, {"out_indices": (3,)}),
    "mmpretrain, V2": (partial(mmpretrain, "SwinTransformerV2", **ALL), V2 | EXTRA),
    "mmpretrain, V2, positions": (
        partial(mmpretrain, "SwinTransformerV2", use_abs_pos_embed=True, **ALL),
        V2 | EXTRA | POSITIONS,
    ),
    "mmpretrain's SimMIM": (simmim, {"out_indices": (3,)}),
}


def raw_maps(layers, run):
    """What comes out of the last block of each stage."""
    maps = []

    def note(block, inputs, output):
        tokens = output if torch.is_tensor(output) else output[0]
        side = int(tokens.shape[1] ** 0.5)
        maps.append(tokens.transpose(1, 2).unflatten(2, (side, side)))

    hooks = [layer.blocks[-1].register_forward_hook(note) for layer in layers]
    run()
    for hook in hooks:
        hook.remove()
    return maps


def maps_of(model, images):
    """Their maps (B, C, H, W), out of whatever part of the model makes them."""
    kinds = {type(module).__name__: module for module in reversed(list(model.modules()))}
    for name in ("OmDetTurboVisionBackbone",):
        if name in kinds:
            return kinds[name](images)
    for name in ("SwinBackbone", "MaskFormerSwinBackbone", "Swinv2Backbone"):
        if name in kinds:
            return kinds[name](images).feature_maps
    for name in ("SwinModel", "Swinv2Model", "DonutSwinModel", "MaskFormerSwinModel"):
        if name in kinds:
            encoder = kinds[name]
            return raw_maps(encoder.encoder.layers, partial(encoder, images))
    if "FeatureListNet" in kinds:
        return [m.permute(0, 3, 1, 2) for m in kinds["FeatureListNet"](images)]
    if hasattr(model, "forward_intermediates"):
        return model.forward_intermediates(images, intermediates_only=True)
    if isinstance(model, torch.fx.GraphModule):
        return [m.permute(0, 3, 1, 2) for m in model(images).values()]
    if hasattr(model, "features"):
        maps = []
        for index, layer in enumerate(model.features):
            images = layer(images)
            if index % 2:
                maps.append(images.permute(0, 3, 1, 2))
        return maps
    if hasattr(model, "mask_token"):
        return list(model(images, None))
    return list(model(images))


def make_case(name):
    """A case's model with random weights, and what ours needs to be like it."""
    pytest.importorskip("timm", reason="timm is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    make, options = CASES[name]
    model = make()
    model.eval()
    randomise(model)
    return model, options
