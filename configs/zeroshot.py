"""Current backbones as they are, on text-video retrieval and, where their authors measured it,
on Kinetics-400.

configs/zeroshot.py:DATA_BACKBONE     retrieval, DATA of `DATASETS`, BACKBONE of `BACKBONES`
configs/zeroshot.py:k400_BACKBONE     recognition, BACKBONE of `NAMED`

Frames, pixels, texts and the pooling of frames are those of the authors' own measurements, where
they state them; configs/retrieval.md has their numbers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from vlt import configuration
from vlt.models.sizes import SIZES

from . import common
from .tempme import MEASURES

# Protocol, and manifest made by data_pipelines/.
DATASETS = {
    "msrvtt": ("msrvtt_1ka", "data/msrvtt/test_1ka.jsonl"),
    "didemo": ("didemo", "data/didemo/test.jsonl"),
    "activitynet": ("activitynet_val1", "data/activitynet/val1.jsonl"),
    "lsmdc": ("lsmdc", "data/lsmdc/test.jsonl"),
    "msvd": ("msvd", "data/msvd/test.jsonl"),
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a backbone sees of a video, and how its frames are pooled.

    sampler, frames: rule of `vlt.data.video.sample`, and number of frames. interpolation: used to
    resize frames to the square, whatever their shape; with `crop`, to resize the short side, before
    the centre is cropped. frame_norm: whether frame embeddings become unit vectors before their
    mean. renormalise: whether that mean does, too. equal_texts: whether all videos whose captions
    are equal count as right.
    """

    sampler: str
    frames: int
    interpolation: str
    frame_norm: bool = False
    renormalise: bool = True
    equal_texts: bool = False
    crop: bool = False


# The authors' retrieval benchmark does not normalise the mean of unit vectors again.
_PE = Reading("linspace_floor", 8, "bilinear", True, renormalise=False, equal_texts=True)
# SigLIP 2's authors embed no videos.
_SIGLIP = Reading("segment_centre", 8, "bilinear", frame_norm=True)
_CLIP = Reading("segment_centre", 8, "bicubic", frame_norm=True, crop=True)
# Which frames of MSR-VTT its authors used is not published; these are those of their demo.
_VIDEOPRISM = Reading("linspace_open", 16, "lanczos")
BACKBONES: dict[str, Reading] = {
    "pe_b16": _PE,
    "pe_l14": _PE,
    "pe_g14": _PE,
    "siglip2_b16": _SIGLIP,
    "siglip2_l16": _SIGLIP,
    "siglip2_so400m14": _SIGLIP,
    "eva02_b16": _CLIP,
    "eva02_l14": _CLIP,
    "metaclip2_b16": _CLIP,
    "metaclip2_l14": _CLIP,
    "videoprism_b": _VIDEOPRISM,
    "videoprism_l": dataclasses.replace(_VIDEOPRISM, frames=8),
}
# How the authors name classes: VideoPrism's in one sentence, PE-Core's in CLIP's 28, whose unit
# vectors are averaged and normalised again.
_SENTENCE: dict[str, Any] = {"template": "a video of {}."}
_SENTENCES: dict[str, Any] = {"templates": "person_templates.txt", "combine": "vectors"}
NAMED = {
    **dict.fromkeys(("videoprism_b", "videoprism_l"), _SENTENCE),
    **dict.fromkeys(("pe_b16", "pe_l14", "pe_g14"), _SENTENCES),
}


def model(backbone: str, frames: int = 0) -> ConfigDict:
    """A config that trains nothing yet. frames: if given, replaces the number in `BACKBONES`."""
    reading, spec = BACKBONES[backbone], SIZES[backbone]
    config = common.base()
    config.model.update(
        checkpoint=f"checkpoints/{backbone}",
        size=backbone,
        frames=frames or reading.frames,
        context=spec.text.context,
        frame_norm=reading.frame_norm,
    )
    return config


def steps(backbone: str) -> dict[str, Any]:
    """Transform steps that give the square image a tower takes."""
    side, reading = SIZES[backbone].visual.image_size, BACKBONES[backbone]
    sides: dict[str, Any] = {"resize": (side, side)}
    if reading.crop:
        sides = {"resize": side, "crop": side}
    return sides | {"interpolation": reading.interpolation}


def retrieval(dataset: str, backbone: str) -> ConfigDict:
    """Text-video retrieval by cosine; no dual softmax."""
    reading, (protocol, manifest) = BACKBONES[backbone], DATASETS[dataset]
    config = model(backbone)
    data = common.videos(manifest, reading.sampler, reading.frames, 16, transform=steps(backbone))
    config.evals = {dataset: common.retrieval(protocol, data)}
    if not reading.renormalise:
        config.model.renormalise = False  # compare the mean of unit frame embeddings as it is
    if reading.equal_texts:
        # For each of several equal captions, the videos of all of them count as right.
        config.evals[dataset].equal_texts = True
    config.table = common.retrieval_table(dataset, MEASURES)
    return config


def recognition(backbone: str) -> ConfigDict:
    """Nearest class of Kinetics-400."""
    reading, config = BACKBONES[backbone], model(backbone)
    config.model.frame_norm = False  # PE-Core, too, averages unnormalised frames here
    validation = backbone.startswith("pe_")
    manifest = f"data/k400/{'val' if validation else 'test'}.jsonl"
    transform = steps(backbone)
    data = common.videos(manifest, reading.sampler, reading.frames, 16, transform=transform)
    config.evals = {"k400": common.recognition(data)}
    config.evals.k400.update(NAMED[backbone])
    config.table = (("k400/top1", "top-1"), ("k400/top5", "top-5"))
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    **{
        f"{dataset}_{backbone}": functools.partial(retrieval, dataset, backbone)
        for dataset in DATASETS
        for backbone in BACKBONES
    },
    **{f"k400_{backbone}": functools.partial(recognition, backbone) for backbone in NAMED},
}


def get_config(variant: str = "msrvtt_pe_b16") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
