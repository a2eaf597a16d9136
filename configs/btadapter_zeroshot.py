"""Zero-shot retrieval and recognition with a pre-trained BT-Adapter (Liu et al., Tables 5 and 9).

    configs/btadapter_zeroshot.py:{msrvtt,didemo,lsmdc,activitynet}    text-video retrieval
    configs/btadapter_zeroshot.py:{k400,hmdb51,ucf101}                 recognition
    configs/btadapter_zeroshot.py:msrvtt_stan                          STAN's weights, retrieval

The model folder is a converted or an exported BT-Adapter. It is gated if the checkpoint holds
gates, and plain otherwise. The published evaluation drops the gates of gated weights; that reading
is `--config.model.methods="('btadapter',)" --config.model.btadapter.gates=none`.
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from vlt import configuration

from . import common

TRANSFORM_224 = {"resize": 224, "crop": 224}
TRANSFORM_256 = {"resize": 256, "crop": 224}

# name -> protocol, manifest, frames, text tokens, transform (BT-Adapter, section 4.1)
RETRIEVAL = {
    "msrvtt": ("msrvtt_1ka", "data/msrvtt/test_1ka.jsonl", 12, 32, TRANSFORM_224),
    "didemo": ("didemo", "data/didemo/test.jsonl", 64, 77, TRANSFORM_256),
    "lsmdc": ("lsmdc", "data/lsmdc/test.jsonl", 64, 77, TRANSFORM_256),
    "activitynet": ("activitynet_val1", "data/activitynet/val1.jsonl", 64, 77, TRANSFORM_256),
}
RECOGNITION = ("k400", "hmdb51", "ucf101")


def evaluation(frames: int, context: int) -> ConfigDict:
    """A config that trains nothing."""
    config = common.base()
    config.model.update(checkpoint="checkpoints/btadapter_l14", frames=frames, context=context)
    # Stands in for a checkpoint that is not there yet, so that `vlt.inspect` knows its size.
    config.model.update(size="clip_l14", methods=("btadapter",), btadapter={})
    return config


def retrieval(name: str) -> ConfigDict:
    """Text-video retrieval by cosine; no dual softmax, no ensembling."""
    protocol, manifest, frames, context, transform = RETRIEVAL[name]
    config = evaluation(frames, context)
    data = common.videos(manifest, "segment_middle", frames, 16, transform=transform)
    config.evals = {name: common.retrieval(protocol, data)}
    metrics = ("R@1", "R@5", "R@10", "MdR", "MnR")
    config.table = tuple(
        (f"{name}/{direction}_{metric}", f"{direction} {metric}")
        for direction in ("t2v", "v2t")
        for metric in metrics
    )
    return config


def stan() -> ConfigDict:
    """STAN over ViT-B/32 as pre-trained by its authors. Mug-STAN's weights are scored by words and
    frames with --config.model.methods="('btadapter', 'mug')"."""
    config = retrieval("msrvtt")
    config.model.update(checkpoint="checkpoints/stan_b32", size="clip_b32")
    config.model.btadapter = {"gates": "none", "class_token": "backbone", "alignment": "none"}
    return config


def recognition(name: str) -> ConfigDict:
    """Nearest class name, as written in the list of classes; 16 frames, one centre crop."""
    config = evaluation(frames=16, context=32)
    manifest = f"data/{name}/test.jsonl"
    data = common.videos(manifest, "segment_middle", 16, 16, transform=TRANSFORM_224)
    config.evals = {name: common.recognition(data)}
    config.table = ((f"{name}/top1", "top-1"), (f"{name}/top5", "top-5"))
    return config


VARIANTS: dict[str, Callable[[], ConfigDict]] = {
    **{name: functools.partial(retrieval, name) for name in RETRIEVAL},
    **{name: functools.partial(recognition, name) for name in RECOGNITION},
    "msrvtt_stan": stan,
}


def get_config(variant: str = "msrvtt") -> ConfigDict:
    """The config of a variant; `VARIANTS` lists them."""
    return configuration.choose_variant(VARIANTS, variant)
