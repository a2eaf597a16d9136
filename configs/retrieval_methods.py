"""Methods of text-video retrieval that TempMe's paper compares: options, leaves, rules."""

from typing import Any

from vlt.merging.diffrate import linear_schedule
from vlt.merging.tempme import PUBLISHED
from vlt.models.sizes import SIZES

# The rows of Tables 2, 5 and 13. Settings of EViT to TESTA that TempMe's paper leaves out are
# inferred from its printed costs, see vlt/merging.
METHODS: dict[str, tuple[str, ...]] = {
    "": ("lora", "tempme"),
    "lora": ("lora",),
    "tome": ("lora", "tome"),
    "evit": ("lora", "evit"),
    "diffrate": ("lora", "diffrate"),
    "sta": ("lora", "sta"),
    "testa": ("lora", "testa"),
    "prompt": ("prompt",),
    "prompt_tome": ("prompt", "tome"),
    "prompt_tempme": ("prompt", "tempme"),
    "adapter": ("adapter",),
    "adapter_tome": ("adapter", "tome"),
    "adapter_tempme": ("adapter", "tempme"),
    "full": (),
    "full_tome": ("tome",),
    "full_tempme": ("tempme",),
}
# Leaves of the methods that have any.
LEAVES = {
    "lora": r".*/lora_[ab]",
    "prompt": r".*/prompt",
    "adapter": r".*/adapter_\w+/.*",
    "tempme": r".*/clip_position",
}
# Clips that layers 9 to 11 join (Section 4.1; 8 frames in Table 16).
JOIN = {8: (2, 2, 2), 12: (2, 2, 3), 64: (4, 4, 4)}


def options(method: str, size: str, frames: int) -> dict[str, Any]:
    """Options of a method that are worth overriding; the rest are its defaults."""
    patch = SIZES[size].visual.patch_size
    published = PUBLISHED[patch]
    return {
        "lora": {"rank": 8},
        "prompt": {"tokens": 5, "deep": True},
        "adapter": {"bottleneck": 8},
        "tome": {"r": published["r"], "proportional": True},
        "testa": {"r": published["r"]},
        "diffrate": diffrate_options(patch),
        "tempme": {"layers": (8, 9, 10), "join": JOIN[frames], "positions": True} | published,
    }.get(method, {})


def diffrate_options(patch: int) -> dict[str, Any]:
    """From all tokens to the 20 (B/16: 49) of Table 1 in equal steps; inferred."""
    patches, last = {32: (49, 19), 16: (196, 48)}[patch]
    kept, merged = linear_schedule(patches, last, layers=12)
    return {"kept": kept, "merged": merged}


def rules(methods: tuple[str, ...], full: bool) -> tuple[tuple[str, Any], ...]:
    """What the methods add is trained, all of it with weight decay, as published."""
    trained = tuple((LEAVES[m], {"weight_decay": 0.2}) for m in methods if m in LEAVES)
    if full:
        # CLIP4Clip's: new leaves at 1e-4, CLIP's own at a thousandth of it.
        return (*trained, (".*", {"lr": 1e-3, "weight_decay": 0.2}))
    return (*trained, (".*", "frozen"))
