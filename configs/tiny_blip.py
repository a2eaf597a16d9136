"""Pre-trains the tiny BLIP captioner bundled with the package, on single frames of moving shapes.

Half of the captions tell what happens, which no frame shows: the decoder learns that a thing moves,
say, left or right. The other half describe what the frame shows and where: a vision tower that does
not keep places gives a mixing block nothing to compare. Twins are told apart here by a late frame
of each, as far as one frame shows what happens: in all families but `orbit`.

    python -m vlt.main --config=configs/tiny_blip.py
    python -m vlt.export --workdir=runs/tiny_blip vlt/assets/tiny_blip --overwrite
"""

from ml_collections import ConfigDict

from vlt import configuration

from . import common


def tiny_blip() -> ConfigDict:
    """BLIP's captioner, as small as the tiny CLIP."""
    config = common.base()
    config.model.update(
        size="tiny_blip",
        tokenizer="moving_shapes:frames:train:24000:tokenizer",
        frames=1,
        context=16,
    )
    config.rules = (
        (".*/(bias|scale|class_embedding)", {"lr": 1.0}),
        (".*", {"lr": 1.0, "weight_decay": 0.05}),
    )
    config.optimizer.update(
        lr=2e-3, b2=0.999, clip=1.0, schedule={"name": "cosine", "warmup": 0.07}
    )
    config.task = common.captioning_task()
    config.data.train = common.videos(
        "moving_shapes:frames:train:24000",
        "linspace",
        frames=1,
        batch_size=64,
        cache=True,
        group="pair",
        captions=("caption", "place"),
    )
    late = common.videos("moving_shapes:frames:test:1040", "linspace", 1, 40, cache=True)
    config.evals = {"twins": {"kind": "caption_twins", "min_pairs": 500, **late}}
    config.train.update(steps=2500, log_every=50, checkpoint_every=500)
    config.table = common.TWINS
    config.more_tables = common.twins_by_family()
    return config


VARIANTS = {"": tiny_blip}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
