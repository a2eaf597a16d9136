"""Methods of action recognition that MSTA is compared with, as overrides of its recipe.

Learning rates that the paper does not state are MSTA's for adapters and 1e-5 for whole towers.
"""

from typing import Any

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
}
