"""Methods of action recognition that MSTA is compared with, as overrides of its recipe.

Learning rates that the paper does not state are MSTA's for adapters and 1e-5 for whole towers. A
method with a published recipe of its own has it in `RECIPES`.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

DECAY = {"weight_decay": 1e-3}  # on every tensor, as in the code that MSTA's builds on
FROZEN = (".*", "frozen")
CLIP = {"model.size": "clip_b16", "model.checkpoint": "checkpoints/clip_b16"}


def trained(pattern: str) -> tuple[tuple[str, Any], ...]:
    """Rules that train what matches, alone."""
    return ((pattern, DECAY),) if pattern == ".*" else ((pattern, DECAY), FROZEN)


# Options of the adapters at full size; the tiny model has a fraction of their width.
ADAPTFORMER = {"bottleneck": 256, "scale": 0.1, "dropout": 0.1, "towers": ("visual", "text")}
# Of the paper's 9.4M no setting can be told; this one has as many, 9,437,184, and is ours.
LORA = {"rank": 256, "targets": ("query", "value"), "share_a": False, "towers": ("visual",)}
ST_ADAPTER = {
    "width": 384, "kernel": (3, 1, 1), "depthwise": True, "positions": ("before_mlp",)
}  # fmt: skip
NO_DESCRIPTIONS: dict[str, Any] = {"descriptions": (), "consistency": 0.0}
NO_LOSS: dict[str, Any] = {f"task.{key}": value for key, value in NO_DESCRIPTIONS.items()}
BARE: dict[str, Any] = NO_LOSS | {"model.methods": ()}
WHOLE: dict[str, Any] = BARE | {"rules": trained(".*"), "optimizer.lr": 1e-5}
STILL: dict[str, Any] = BARE | {"rules": (FROZEN,), "train.steps": 0, "repeats": ()}


def instead(name: str, pattern: str) -> dict[str, Any]:
    """Overrides: another adapter in MSTA's place."""
    return NO_LOSS | {"model.methods": (name,), "rules": trained(pattern)}


# X-CLIP trains the vision tower too, at a tenth of what is new; no decay of what is flat, of
# biases and of tables of positions.
XCLIP_NEW = r"visual/blocks_\d+/xclip/|visual/xclip_\w+/|xclip_prompts/"
FLAT = r"(.*/)?(bias|scale|alpha|class_embedding|position_embedding)"
XCLIP_RULES = (
    (f"({XCLIP_NEW}){FLAT}", {"lr": 10.0}),
    (f"({XCLIP_NEW}).*", {"lr": 10.0} | DECAY),
    (f"visual/{FLAT}", {}),
    ("visual/.*", DECAY),
    FROZEN,
)

METHODS: dict[str, dict[str, Any]] = {
    "nocc": NO_LOSS,
    "adaptformer": instead("adaptformer", ".*/adaptformer/.*"),
    "lora": instead("lora", ".*/lora_[ab]"),
    "st_adapter": instead("st_adapter", "visual/.*/st_adapter_mlp/.*"),
    "full": WHOLE,
    # The image model, its frames apart: all of it trained, and so with neighbours' keys and values.
    "vificlip": WHOLE | CLIP,
    "openvclip": WHOLE
    | CLIP
    | {
        "model.methods": ("neighbour_attention",),
        "task.interpolation": {"largest": 0.6, "ratio": 0.5},
    },
    "frozen": STILL,
    "frozen_clip": STILL | CLIP,
    # Published with ImageNet's mean and deviation of pixels; here they are the checkpoint's.
    "xclip": BARE
    | CLIP
    | {
        "model.methods": ("xclip",),
        "model.context": 77,
        "rules": XCLIP_RULES,
        "task.template": "{}",
        "task.label_smoothing": 0.1,
        "task.mixup": 0.8,
        "task.cutmix": 1.0,
        "task.largest_scale": 0.0,
    },
}


def schedule(config: ConfigDict, batch: int, epochs: int, lr: float) -> dict[str, Any]:
    """Another batch, length and rate; five epochs of warm-up, then a cosine to a hundredth."""
    epoch = config.train.checkpoint_every * config.data.train.batch_size // batch
    return {
        "data.train.batch_size": batch,
        "train.steps": epochs * epoch,
        "train.checkpoint_every": epoch,
        "optimizer.lr": lr,
        "optimizer.schedule": {"name": "cosine", "warmup": 5 / epochs, "final": 0.01},
    }


def named(config: ConfigDict, template: str) -> dict[str, Any]:
    """Classes of all evaluations in one template."""
    return {f"evals.{name}.template": template for name in config.evals}


def xclip(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """Of 16 videos a class, 50 epochs; base-to-novel, which it does not publish, as few-shot in
    MSTA's 11. Rates of new leaves end at a hundredth of their own highest, published at one of the
    tower's."""
    crop = {"resize": 256, "multi_scale_crop": 224}
    drawn = {k: v for k, v in config.data.train.transform.items() if k != "random_resized_crop"}
    if protocol in ("zeroshot_k400", "full_k400"):
        trained = schedule(config, 256, 30, 8e-6)
    else:
        trained = schedule(config, 64, 11 if protocol.startswith("base2novel") else 50, 2e-6)
    return trained | named(config, "{}") | {"data.train.transform": crop | drawn}


# Of a method's name: what its own recipe has in a protocol of configs/msta.py.
RECIPES: dict[str, Callable[[str, ConfigDict], dict[str, Any]]] = {"xclip": xclip}
