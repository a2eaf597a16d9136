"""Recognition by an attention probe over VideoPrism's frozen video encoders, which read no text.

configs/probe.py:k400_b, k400_l   Kinetics-400
configs/probe.py:own              your videos, data.train.manifest, over B

Frames, pixels and optimizer are those of the authors' classification demo, which trains for five
epochs on ten videos per class; how their tables were made is not published.
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from vlt import configuration
from vlt.models.sizes import SIZES

from . import common

BATCH, EPOCHS = 16, 5
K400_STEPS = 15_025  # per epoch: about 240,400 videos / 16


def base(encoder: str, classes: int) -> ConfigDict:
    """A probe over one of VideoPrism's encoders, b or l."""
    size = f"videoprism_encoder_{encoder}"
    config = common.base()
    config.model.update(
        checkpoint=f"checkpoints/{size}",
        size=size,
        methods=("attention_probe",),
        attention_probe={"classes": classes},
        frames=SIZES[size].visual.temporal_frames,
        dtype="auto",
    )
    config.rules = (("visual/attention_probe/.*", {}), (".*", "frozen"))
    config.optimizer.update(lr=1e-4, b2=0.999)
    config.task = common.classification_task(classes)
    return config


def videos(config: ConfigDict, manifest: str, batch_size: int, classes: str) -> ConfigDict:
    """A data section of evenly spaced frames, each cropped to its central square."""
    side = SIZES[config.model.size].visual.image_size
    transform = {"resize": side, "crop": side, "interpolation": "lanczos"}
    frames, more = config.model.frames, {"transform": transform, "classes": classes}
    return common.videos(manifest, "linspace_open", frames, batch_size, **more)


def kinetics(encoder: str) -> ConfigDict:
    """Trained on all of Kinetics-400."""
    config, names = base(encoder, 400), "data/k400/classes.txt"
    config.data.workers = 16
    config.data.train = videos(config, "data/k400/train.jsonl", BATCH, names)
    test = videos(config, "data/k400/val.jsonl", 32, names)
    config.evals = {"k400": common.classification(test, "k400")}
    config.train.update(steps=EPOCHS * K400_STEPS, checkpoint_every=K400_STEPS)
    config.table = (("k400/top1", "top-1"), ("k400/top5", "top-5"), ("k400/protocol", "protocol"))
    return config


def own_videos() -> ConfigDict:
    """Trains on any manifest with `video` and `label`, whose labels are the classes;
    `model.attention_probe.classes` must give their number. Tests on the same videos unless
    `evals.own.manifest` names others."""
    config = base("b", 0)
    config.model.attention_probe.classes = 2
    config.data.train = videos(config, common.OWN, BATCH, "")
    common.own_data(config, BATCH, common.classification(config.data.train))
    config.train.update(steps=1000, checkpoint_every=500)
    config.table = (("own/top1", "top-1"), ("own/top5", "top-5"), ("own/mean_class", "mean class"))
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    **{f"k400_{encoder}": functools.partial(kinetics, encoder) for encoder in ("b", "l")},
    "own": own_videos,
}


def get_config(variant: str = "k400_b") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
