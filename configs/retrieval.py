"""Text-video retrieval over current backbones: SigLIP 2, PE-Core, VideoPrism.

configs/retrieval.py:DATA_BACKBONE          the whole model is trained
configs/retrieval.py:DATA_BACKBONE_lora     only LoRA is trained
configs/retrieval.py:DATA_BACKBONE_tempme   LoRA and TempMe; backbones with separate frames only
configs/retrieval.py:DATA_BACKBONE_btadapter  only a BT-Adapter is trained; the same backbones

DATA is one of `DATASETS`, BACKBONE one of `BACKBONES`. No paper has these rows: data, frames,
batches and epochs are TempMe's (Appendix B). VideoPrism takes the number of frames it was trained
with.
"""

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from vlt import configuration
from vlt.models.sizes import SIZES

from . import btadapter, common, tempme, zeroshot
from .retrieval_methods import JOIN, LEAVES

# One caption per row, in batches of 128 (CLIP4Clip, Section 4.1).
MSVD = tempme.SHORT | {"protocol": "msvd", "train": "train", "test": "test", "epoch": 381}
DATASETS: dict[str, dict[str, Any]] = tempme.DATASETS | {"msvd": MSVD}
BACKBONES = (
    *("siglip2_b16", "siglip2_l16", "pe_b16", "pe_l14"),
    *("videoprism_b", "videoprism_l"),
)
METHODS: dict[str, tuple[str, ...]] = {
    "": (),
    "lora": ("lora",),
    "tempme": ("lora", "tempme"),
    "btadapter": ("btadapter",),
}
# Peak learning rates: CLIP4Clip's for CLIP's own leaves, TempMe's, BT-Adapter's.
RATES = {"": 1e-7, "lora": 6e-4, "tempme": 6e-4, "btadapter": 2e-6}


def options(method: str, backbone: str, frames: int) -> dict[str, Any]:
    """Options of a method in the vision tower of a backbone."""
    visual = SIZES[backbone].visual
    # Removes as many tokens as at B/16, in proportion to patches and blocks.
    gone = round(10 * visual.patches / 196 * 12 / visual.layers)
    last = visual.layers - 2
    known: dict[str, dict[str, Any]] = {
        "lora": {"rank": 8},
        "tempme": {
            "layers": (last - 2, last - 1, last),  # that join clips; of twelve, the published ones
            "join": JOIN.get(frames, ()),
            "positions": True,
            "r": gone,
            "keep_cross": 60,
            "keep_intra": 80,
        },
        "btadapter": {"alignment": "none"},  # VTC is the only loss
    }
    return known[method]


def rules(method: str) -> tuple[tuple[str, Any], ...]:
    """What is trained, with the weight decay and the rates of its paper."""
    if not method:
        tables = ".*(bias|scale|probe|position_embedding|temporal_embedding|class_embedding)"
        return ((f"{tables}|logit_bias", {}), (".*", {"weight_decay": 0.2}))
    if method == "btadapter":
        return btadapter.RULES
    trained = [LEAVES[name] for name in METHODS[method] if name in LEAVES]
    return (*((leaf, {"weight_decay": 0.2}) for leaf in trained), (".*", "frozen"))


def losses(backbone: str) -> dict[str, Any]:
    """SigLIP's own loss, with the weights' scale and bias; else the mean of both directions."""
    if backbone.startswith("siglip"):
        return {"losses": {"sigmoid": 1.0}, "scale": 0.0}
    return {"losses": {"vtc": 0.5}, "scale": 0.0}


def retrieval(dataset: str, backbone: str, method: str) -> ConfigDict:
    """A backbone and a method of `METHODS` on a data set."""
    data, reading = DATASETS[dataset], zeroshot.BACKBONES[backbone]
    apart = not SIZES[backbone].visual.stages
    frames = data["frames"] if apart else reading.frames
    config = zeroshot.model(backbone, frames)
    config.seed = 42
    config.model.methods = METHODS[method]
    for name in METHODS[method]:
        config.model[name] = options(name, backbone, frames)
    config.rules = rules(method)
    tempme.optimizer(config, RATES[method])
    config.task.update(losses(backbone))
    sampler = "fps1_linspace" if apart else reading.sampler
    videos = functools.partial(
        common.videos, sampler=sampler, frames=frames, transform=zeroshot.steps(backbone)
    )
    config.data.workers = 16
    config.data.train = videos(f"data/{dataset}/{data['train']}.jsonl", batch_size=128)
    test = videos(f"data/{dataset}/{data['test']}.jsonl", batch_size=16)
    config.evals = {dataset: common.retrieval(data["protocol"], test)}
    tempme.five_epochs(config, dataset, data["epoch"])
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    "_".join(filter(None, (dataset, backbone, method))): functools.partial(
        retrieval, dataset, backbone, method
    )
    for dataset in DATASETS
    for backbone in BACKBONES
    for method in METHODS
    # TempMe and BT-Adapter need separate frames.
    if method in ("", "lora") or not SIZES[backbone].visual.stages
}


def get_config(variant: str = "msrvtt_pe_b16_lora") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
