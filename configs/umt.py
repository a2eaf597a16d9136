"""UMT's part of TempMe's tables: fine-tuning of UMT-B/16 on MSR-VTT, as its authors publish it.

UMT attends over all frames together. UMT4Clip, which TempMe's paper puts beside it, sees each frame
by itself, so that frames can merge; its code is not published, and neither is that of TempMe on it.
"""

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from . import common
from .retrieval_methods import LEAVES, options

FRAMES = 12
GPUS = 8  # of the published scripts, with 32 samples on each
# Of rows: whether all frames attend together, and methods. Merging needs frames apart.
MODELS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "umt": (True, ()),
    "umt_lora": (True, ("lora",)),
    "umt4clip": (False, ()),
    "umt4clip_lora": (False, ("lora",)),
    "umt4clip_tome": (False, ("tome",)),
    "umt4clip_tempme": (False, ("tempme",)),
}
DECAY = {"weight_decay": 0.02}
# As published: no decay of tensors of one dimension.
EVERYTHING = ((r".*/(bias|scale)|temperature", {"lr": 1.0}), (".*", DECAY))
RESIZE = {"resize": (224, 224)}
CROP = {"random_resized_crop": {"size": 224, "area": (0.5, 1.0)}, "flip": 0.5}
MEASURES = ("R@1", "R@5", "R@10", "R-Sum")
videos = functools.partial(common.videos, frames=FRAMES, batch_size=32 * GPUS, clean="umt")


def base(kind: str, row: str, context: int, lr: float) -> ConfigDict:
    """Model, rules and optimizer of a row of `MODELS`, by fine-tuning from UMT-B/16-25M."""
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
        # `joint`: the patches of all frames attend together. `pool`: what a frame's embedding is
        # made of once patches merged, `token_mean`, each token once, or `mean`, by their sizes;
        # neither is published.
        video={"joint": joint, "pool": "token_mean"},
        drop_path=0.2,
    )
    for each in methods:
        config.model[each] = options(each, size, FRAMES)
    config.rules = EVERYTHING
    config.optimizer.update(lr=lr, b2=0.999)
    config.data.workers = 16
    if methods == ("lora",):
        # Nobody's setting: leaves and learning rate of TempMe's LoRA over CLIP.
        config.rules = ((LEAVES["lora"], {"weight_decay": 0.2}), (".*", "frozen"))
        config.optimizer.lr = 6e-4
    return config


def schedule(config: ConfigDict, epochs: int, steps: int) -> None:
    """A rise over the first epoch, then a cosine to a hundredth. steps: of an epoch."""
    cosine: dict[str, Any] = {"name": "cosine", "warmup": 1 / epochs, "final": 0.01}
    config.optimizer.schedule = cosine
    config.train.update(steps=epochs * steps, eval_every=steps, checkpoint_every=steps)


def retrieval(row: str) -> ConfigDict:
    """A row of Table 6: 9k videos to train on, 1k-A to test."""
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
