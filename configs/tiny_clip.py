"""Pre-trains the tiny CLIP bundled with the package, on single frames of moving shapes.

Steps and sizes follow a feasibility study. What matters: frames come from the end of their clips;
most captions describe what the frame shows, half of these also where; the frames of a clip and of
its twin share a batch, so that the vision tower keeps where things are; and a text-only loss
reconstructs each caption from its embedding, so that the text tower keeps words no frame shows.

    python -m vlt.main --config=configs/tiny_clip.py
    python -m vlt.export --workdir=runs/tiny_clip vlt/assets/tiny_clip --overwrite
"""

from ml_collections import ConfigDict

from vlt import configuration

from . import common


def tiny_clip() -> ConfigDict:
    """A CLIP of 709,729 parameters, and a reconstruction head that exports leave out."""
    config = common.base()
    config.model.update(
        size="tiny_clip",
        tokenizer="moving_shapes:frames:train:24000:tokenizer",
        methods=("caption_reconstruction",),
        caption_reconstruction={},
        frames=1,
        context=16,
    )
    config.rules = (
        (".*/(bias|scale|class_embedding)|logit_scale", {"lr": 1.0}),
        (".*", {"lr": 1.0, "weight_decay": 0.05}),
    )
    config.optimizer.update(
        lr=2e-3, b2=0.999, clip=1.0, schedule={"name": "cosine", "warmup": 0.07}
    )
    config.task.update(
        losses={"vtc": 0.5, "caption_reconstruction": 3.0}, scale=0.0, mask_duplicates=True
    )
    config.data.train = common.videos(
        "moving_shapes:frames:train:24000",
        "linspace",
        frames=1,
        batch_size=128,
        cache=True,
        group="pair",
        captions=("caption", "appearance", "place"),
    )
    looks = common.videos("moving_shapes:stills:test:120", "linspace", 1, 40, cache=True)
    known = common.videos("moving_shapes:stills:train:200", "linspace", 1, 40, cache=True)
    config.evals = {
        "known_looks": common.retrieval("moving_shapes", known),
        "new_looks": common.retrieval("moving_shapes", looks),
        "twin_captions": common.twins("twin_captions", frames=1),
    }
    config.train.update(steps=3000, log_every=50, checkpoint_every=600)
    config.table = (
        ("known_looks/t2v_R@1", "known looks R@1 t2v"),
        ("known_looks/v2t_R@1", "v2t"),
        ("new_looks/t2v_R@1", "new looks R@1 t2v"),
        ("new_looks/v2t_R@1", "v2t"),
        ("twin_captions/max", "twin caption cosine", ".3f"),
    )
    return config


VARIANTS = {"": tiny_clip}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
