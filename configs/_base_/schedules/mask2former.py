# How Mask2Former learns: the backbone at a tenth of the rate; no weight decay on norms, relative
# position biases and embeddings.
embed_multi = dict(lr_mult=1.0, decay_mult=0.0)
backbone_multi = dict(lr_mult=0.1, decay_mult=0.0)
# The longest key that is part of a parameter's name holds, so that 'backbone' alone would take the
# norms. Swin-T has fewer blocks than the 18 of a stage named here.
custom_keys = {
    "backbone": dict(lr_mult=0.1, decay_mult=1.0),
    "backbone.patch_embed.norm": backbone_multi,
    "backbone.norm": backbone_multi,
    "absolute_pos_embed": backbone_multi,
    "relative_position_bias_table": backbone_multi,
    "query_embed": embed_multi,
    "query_feat": embed_multi,
    "level_embed": embed_multi,
    **{f"backbone.stages.{stage}.downsample.norm": backbone_multi for stage in range(3)},
    **{
        f"backbone.stages.{stage}.blocks.{block}.norm": backbone_multi
        for stage in range(4)
        for block in range(18)
    },
}
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999)),
    paramwise_cfg=dict(custom_keys=custom_keys, norm_decay_mult=0.0),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=16)
