"""Pre-trains the tiny ViCLIP bundled with the package, on clips of moving shapes.

Every clip shows one motion; only captions of one thing after another contain "then". Half of the
captions name the motion without appearance, as class names do. A text-only loss reconstructs each
caption from its embedding, so that the text tower keeps the words for motions apart.

    python -m vlt.main --config=configs/tiny_viclip.py
    python -m vlt.export --workdir=runs/tiny_viclip vlt/assets/tiny_viclip --overwrite
"""

from ml_collections import ConfigDict

from vlt import configuration

from . import common


def tiny_viclip() -> ConfigDict:
    """A model of ViCLIP's shape, and a reconstruction head that exports leave out."""
    config = common.base()
    config.model.update(
        size="tiny_viclip",
        tokenizer="moving_shapes:clips:train:3000:tokenizer",
        methods=("caption_reconstruction",),
        caption_reconstruction={},
        frames=8,
        context=16,
    )
    config.rules = (
        # Starting at zero, at the others' rate, it leaves frames alike for a thousand steps.
        ("visual/temporal_embedding", {"lr": 10.0}),
        (".*/(bias|scale|class_embedding)|logit_scale", {"lr": 1.0}),
        (".*", {"lr": 1.0, "weight_decay": 0.05}),
    )
    config.optimizer.update(
        lr=2e-3, b2=0.999, clip=1.0, schedule={"name": "cosine", "warmup": 0.07}
    )
    config.task.update(
        losses={"vtc": 0.5, "caption_reconstruction": 1.0}, scale=0.0, mask_duplicates=True
    )
    common.moving_shapes(config)
    config.data.train.update(batch_size=64, captions=("caption", "motion"))
    config.evals.twin_captions = common.twins("twin_captions", frames=8)
    config.table += (("twin_captions/max", "twin caption cosine", ".3f"),)
    config.train.update(steps=1500, log_every=50, checkpoint_every=500)
    return config


VARIANTS = {"": tiny_viclip}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
