"""UMT's part of TempMe's tables: fine-tuning of UMT-B/16 on MSR-VTT, as published by its authors.

UMT attends over all frames together. UMT4Clip, which TempMe's paper compares with it, sees each
frame separately, so that frames can merge; neither its code nor that of TempMe on it is published.
"""

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from . import common
from .retrieval_methods import LEAVES, options

FRAMES = 12
GPUS = 8  # in the published scripts, with 32 samples on each
# By row: whether all frames attend together, and methods. Merging needs separate frames.
MODELS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "umt": (True, ()),
    "umt_lora": (True, ("lora",)),
    "umt4clip": (False, ()),
    "umt4clip_lora": (False, ("lora",)),
    "umt4clip_tome": (False, ("tome",)),
    "umt4clip_tempme": (False, ("tempme",)),
}
DECAY = {"weight_decay": 0.02}
# As published: one-dimensional tensors have no decay.
EVERYTHING = ((r".*/(bias|scale)|temperature", {"lr": 1.0}), (".*", DECAY))
RESIZE = {"resize": (224, 224)}
CROP = {"random_resized_crop": {"size": 224, "area": (0.5, 1.0)}, "flip": 0.5}
MEASURES = ("R@1", "R@5", "R@10", "R-Sum")
videos = functools.partial(common.videos, frames=FRAMES, batch_size=32 * GPUS, clean="umt")


def base(kind: str, row: str, context: int, lr: float) -> ConfigDict:
    """Model, rules and optimizer of a row of `MODELS`, fine-tuned from UMT-B/16-25M."""
    joint, methods = MODELS[row]
    size = f"umt_b16_{kind}"
    config = common.base()
    config.seed = 42
    config.model.update(
        checkpoint=f"checkpoints/{size}",
        size=size,
        methods=methods,
        frames=FRAMES,
        context=context,
        dtype="auto",
        remat="block",
        # `joint`: whether the patches of all frames attend together. `pool`: how tokens are
        # averaged into a frame's embedding once patches have merged: `token_mean`, equally, or
        # `mean`, weighted by their sizes; neither is published.
        video={"joint": joint, "pool": "token_mean"},
        drop_path=0.2,
    )
    for each in methods:
        config.model[each] = options(each, size, FRAMES)
    config.rules = EVERYTHING
    config.optimizer.update(lr=lr, b2=0.999)
    config.data.workers = 16
    if methods == ("lora",):
        # Published nowhere: leaves and learning rate are those of TempMe's LoRA over CLIP.
        config.rules = ((LEAVES["lora"], {"weight_decay": 0.2}), (".*", "frozen"))
        config.optimizer.lr = 6e-4
    return config


def schedule(config: ConfigDict, epochs: int, steps: int) -> None:
    """Sets a rise over the first epoch, then a cosine to a hundredth. steps: steps per epoch."""
    cosine: dict[str, Any] = {"name": "cosine", "warmup": 1 / epochs, "final": 0.01}
    config.optimizer.schedule = cosine
    config.train.update(steps=epochs * steps, eval_every=steps, checkpoint_every=steps)


def retrieval(row: str) -> ConfigDict:
    """A row of Table 6: trained on 9k videos, tested on 1k-A."""
    config = base("retriever", row, context=32, lr=1e-5)
    schedule(config, epochs=10, steps=703)  # 180,000 captions
    config.task = common.batch_matching_task()
    config.data.train = videos("data/msrvtt/train_9k.jsonl", "viclip_random", transform=CROP)
    test = videos("data/msrvtt/test_1ka.jsonl", "viclip_middle", transform=RESIZE)
    evaluation = common.matching("msrvtt_1ka_9k", test)
    evaluation.add_cosine = False  # candidates are ranked by matching alone
    config.evals = {"msrvtt": evaluation}
    # Published: the best epoch on the test set itself.
    config.train.best_metric = "msrvtt/t2v_R@1"
    model = (("inspect/video_gmacs", "GMACs"), ("inspect/output_tokens", "tokens", ",d"))
    config.table = (*model, *common.retrieval_table("msrvtt", MEASURES))
    return config


RETRIEVAL: dict[str, Callable[[], ConfigDict]] = {
    f"msrvtt_{row}": functools.partial(retrieval, row) for row in MODELS
}
