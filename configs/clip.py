"""Zero-shot CLIP, the baseline of all papers: frames one by one, their embeddings averaged.

configs/clip.py:{b32,b16,l14}    MSR-VTT 1k-A, 12 frames
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from vlt import configuration

from . import common


def zeroshot(backbone: str) -> ConfigDict:
    """A converted CLIP as it stands; trains nothing."""
    config = common.base()
    size = f"clip_{backbone}"
    config.model.update(checkpoint=f"checkpoints/{size}", size=size, frames=12, context=32)
    # CLIP4Clip's mean: of unit frame embeddings.
    config.model.frame_norm = True
    config.evals = {"msrvtt_1ka": common.msrvtt_1ka(frames=12)}
    config.table = tuple(
        (f"msrvtt_1ka/{direction}_{metric}", f"{direction} {metric}")
        for direction in ("t2v", "v2t")
        for metric in ("R@1", "R@5", "R@10", "MdR", "MnR")
    ) + (("msrvtt_1ka/protocol", "protocol"),)
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    backbone: functools.partial(zeroshot, backbone) for backbone in ("b32", "b16", "l14")
}


def get_config(variant: str = "b32") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
