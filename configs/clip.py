"""Zero-shot CLIP, every paper's baseline: frames are encoded one by one and averaged.

configs/clip.py:{b32,b16,l14}    MSR-VTT 1k-A, 12 frames
configs/clip.py:own              your videos, evals.own.manifest
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from vlt import configuration

from . import common

MEASURES = ("R@1", "R@5", "R@10", "MdR", "MnR")


def zeroshot(backbone: str) -> ConfigDict:
    """A converted CLIP as it is; trains nothing."""
    config = common.base()
    size = f"clip_{backbone}"
    config.model.update(checkpoint=f"checkpoints/{size}", size=size, frames=12, context=32)
    # CLIP4Clip averages unit frame embeddings.
    config.model.frame_norm = True
    config.evals = {"msrvtt_1ka": common.msrvtt_1ka(frames=12)}
    config.table = common.retrieval_table("msrvtt_1ka", MEASURES)
    return config


def own_videos() -> ConfigDict:
    """Evaluates on any manifest with `video` and `caption`."""
    config = zeroshot("b32")
    config.model.context = 77
    config.evals = {"own": common.own_retrieval(config.model.frames)}
    config.evals.own.sampler.frames = config.model.get_oneway_ref("frames")
    config.table = common.retrieval_table("own", MEASURES)
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    **{backbone: functools.partial(zeroshot, backbone) for backbone in ("b32", "b16", "l14")},
    "own": own_videos,
}


def get_config(variant: str = "b32") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
