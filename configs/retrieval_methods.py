"""Methods of text-video retrieval that TempMe's paper compares: options, leaves, rules."""

from typing import Any

from vlt.merging.diffrate import linear_schedule
from vlt.merging.tempme import PUBLISHED
from vlt.models.sizes import SIZES

# The rows of Tables 2, 5 and 13. Settings that TempMe's paper leaves out for EViT to TESTA are
# inferred from the costs that it prints, see vlt/merging.
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
# Leaves of each method that has any.
LEAVES = {
    "lora": r".*/lora_[ab]",
    "prompt": r".*/prompt",
    "adapter": r".*/adapter_\w+/.*",
    "tempme": r".*/clip_position",
}
# Number of clips that layers 9 to 11 join (Section 4.1; 8 frames: Table 16).
JOIN = {8: (2, 2, 2), 12: (2, 2, 3), 64: (4, 4, 4)}


def options(method: str, size: str, frames: int) -> dict[str, Any]:
    """Options of a method that are worth overriding; the others keep their defaults."""
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
    """Equal steps from all tokens to the 20 (B/16: 49) of Table 1; inferred."""
    patches, last = {32: (49, 19), 16: (196, 48)}[patch]
    kept, merged = linear_schedule(patches, last, layers=12)
    return {"kept": kept, "merged": merged}


def rules(methods: tuple[str, ...], full: bool) -> tuple[tuple[str, Any], ...]:
    """Rules that train all that the methods add, with weight decay, as published."""
    trained = tuple((LEAVES[m], {"weight_decay": 0.2}) for m in methods if m in LEAVES)
    if full:
        # As in CLIP4Clip: new leaves at 1e-4, CLIP's own at a thousandth of that.
        return (*trained, (".*", {"lr": 1e-3, "weight_decay": 0.2}))
    return (*trained, (".*", "frozen"))


def _trained(pattern: str, weight_decay: float) -> tuple[tuple[str, Any], ...]:
    """Rules that train only the leaves that match."""
    return ((pattern, {"weight_decay": weight_decay}), (".*", "frozen"))


# VoP's training code is not published. The recipe is that of DGL, which builds on VoP.
_VOP: dict[str, Any] = {
    "model.methods": ("vop",),
    "model.vop.variant": "basic",
    "model.vop.readout": "published",
    # All tokens that its prompts leave: in shorter texts the published readout is another token.
    "model.context": 69,
    "rules": _trained(r".*/vop_\w+", 0.2),
    "optimizer.name": "adamw",
    "optimizer.lr": 2e-3,
    "optimizer.b2": 0.98,
}
_VOP_CONTEXT: dict[str, Any] = _VOP | {"rules": _trained(r".*/vop_\w+|shared_VoP/.*", 0.2)}
# Published for recognition, in batches of 64 videos of 16 frames, with a schedule that stays
# constant for as long as the runs lasted.
_PLEVU: dict[str, Any] = {
    "model.methods": ("plevu",),
    "model.plevu.prefix": 16,
    "model.plevu.postfix": 16,
    "model.plevu.layers": 2,
    "model.frame_norm": False,
    "model.context": 45,
    "rules": _trained("(visual|text)/plevu.*", 0.01),
    "optimizer.name": "adamw",
    "optimizer.lr": 1e-4,
    "optimizer.eps": 1e-8,
    "optimizer.clip": 0.0,
    "optimizer.schedule": {"name": "constant"},
    "task.scale": 1 / 0.07,
}
# Published with 128 videos on each of four or eight GPUs, in half precision.
_DGL: dict[str, Any] = {
    "model.methods": ("dgl",),
    "model.dgl.latent": "linear",
    "model.frame_norm": False,  # the video's embedding comes from a single token
    "rules": (("shared_DGL/.*bias", {}), *_trained("visual/global_prompt|shared_DGL/.*", 0.2)),
    "optimizer.name": "adamw",
    "optimizer.lr": 2e-3,
    "optimizer.b2": 0.98,
}
# Published without Adam's bias correction, with gradients clipped per tensor and 16 videos per GPU.
# CLIP's biases move at a fiftieth of the adapters' rate.
_MV_ADAPTER: dict[str, Any] = {
    "model.methods": ("mv_adapter",),
    "model.mv_adapter.frames": 12,
    "model.mv_adapter.words": 32,
    "model.mv_adapter.tie": "out",
    "rules": (
        (r".*/mv_adapter/.*bias", {}),
        (r".*/mv_adapter/.*|shared_MVAdapter/.*", {"weight_decay": 0.2}),
        (r".*/bias", {"lr": 0.02}),
        (".*", "frozen"),
    ),
    "optimizer.lr": 5e-6,
    "optimizer.b2": 0.98,
}
# As in CLIP4Clip, all of CLIP is trained, at a thousandth of the head's rate.
_CLIP4CLIP: dict[str, Any] = {
    "model.methods": ("clip4clip",),
    "model.clip4clip.sim_header": "seqTransf",
    "rules": (
        ("(visual/)?clip4clip/.*", {"weight_decay": 0.2}),
        (".*", {"lr": 1e-3, "weight_decay": 0.2}),
    ),
}
# Methods made for text-video retrieval (Tables 2 to 4, 11, 12), as overrides of the recipe. Data,
# batches and epochs are TempMe's.
COMPARED: dict[str, dict[str, Any]] = {
    "vop": _VOP,
    "vop_p": _VOP | {"model.vop.variant": "P"},
    "vop_c": _VOP_CONTEXT | {"model.vop.variant": "C"},
    "vop_f": _VOP | {"model.vop.variant": "F"},
    "vop_fp": _VOP | {"model.vop.variant": "F+P"},
    "vop_fc": _VOP_CONTEXT | {"model.vop.variant": "F+C"},  # the rows of VoP
    "plevu": _PLEVU,
    "dgl": _DGL,  # the rows of DGL; its MSR-VTT weights have the other latent
    "dgl_transformer": _DGL | {"model.dgl.latent": "transformer", "model.dgl.frames": 12},
    "mv_adapter": _MV_ADAPTER,
    "clip4clip_seqTransf": _CLIP4CLIP,
    "clip4clip_seqLSTM": _CLIP4CLIP | {"model.clip4clip.sim_header": "seqLSTM"},
    "clip4clip_tightTransf": _CLIP4CLIP
    | {"model.clip4clip.sim_header": "tightTransf", "task.scale": 1.0},
}
