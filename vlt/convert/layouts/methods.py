"""Options of a model's methods, read off its leaves."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from vlt.adapters.actionclip import ActionCLIP
from vlt.adapters.btadapter import BTAdapter
from vlt.adapters.mote import MoTE
from vlt.adapters.vita_clip import VitaCLIP
from vlt.convert.errors import ConversionError
from vlt.convert.layouts.dgl import dgl_options
from vlt.convert.layouts.mv_adapter import mv_adapter_options
from vlt.convert.layouts.plevu import PLEVU_FRAMES, plevu_options
from vlt.convert.layouts.vop import vop_options
from vlt.convert.tables.family import Family
from vlt.convert.tables.sizes import common_size, count_layers
from vlt.merging.tempme import PUBLISHED
from vlt.model_io.folder import ModelConfig, model_shapes
from vlt.pytrees.paths import by_path

Leaves = Mapping[str, np.ndarray]
Options = dict[str, Any]

_BRANCH = "visual/btadapter"
_PROMPTS = "visual/vita_clip"
_HEAD = "visual/mote"
_FRAMES_HEAD = "visual/actionclip"
_CLIP_POSITION = re.compile(r"visual/blocks_(\d+)/clip_position")


def infer_methods(
    leaves: Leaves, patch_size: int, settings: Mapping[str, Any]
) -> tuple[dict[str, Options], list[str]]:
    """Methods whose leaves are present, with the options that these determine, and a note on each
    option that tensors can't tell.

    Raises ConversionError when such an option must be set, or is set where nothing uses it.
    """
    notes: list[str] = []
    found = {
        "actionclip": _actionclip(leaves, settings, notes),
        "btadapter": _btadapter(leaves),
        "mote": _mote(leaves),
        "lora": _lora(leaves),
        "tempme": _tempme(leaves, patch_size, settings, notes),
        "vificlip": _vificlip(leaves),
        "token_mixing": _token_mixing(settings),
        "vita_clip": _vita_clip(leaves, settings, notes),
        "xclip": _xclip(leaves),
        "vop": vop_options(leaves, notes),
        "plevu": plevu_options(leaves, settings, notes),
        "dgl": dgl_options(leaves),
        "mv_adapter": mv_adapter_options(leaves),
    }
    return {name: options for name, options in found.items() if options is not None}, notes


def untold_methods(config: ModelConfig, family: Family) -> list[str]:
    """Notes on the methods that have no leaves, which a layout says nothing of."""
    asked = {name: x for name, x in config.methods.items() if name not in family.methods}
    if not asked:
        return []
    plain = by_path(model_shapes(config.spec, {}, config.frames))
    return [
        f"{name}: has no tensors, not written; what is written computes without it"
        for name, options in asked.items()
        if by_path(model_shapes(config.spec, {name: options}, config.frames)) == plain
    ]


def trained_frames(leaves: Leaves) -> int | None:
    """Frames of the videos that the model is for, or None where no leaf depends on them."""
    tables = (
        f"{_PROMPTS}/time_embedding",
        "visual/xclip_frames/position_embedding",
        PLEVU_FRAMES,
    )
    counts = [*_clips(leaves).values(), *(len(leaves[path]) for path in tables if path in leaves)]
    told = (dgl_options(leaves), mv_adapter_options(leaves))
    counts += [options["frames"] for options in told if options]
    return next(filter(None, counts), None)


def _rows(leaves: Leaves, table: str, usual: int) -> int:
    """Rows of a table of frames; `usual` for an absent one, so that it is reported as
    missing rather than too short."""
    return common_size(leaves, table, axis=0) if table in leaves else usual


def _token_mixing(settings: Mapping[str, Any]) -> Options | None:
    """Token mixing has no leaves, so a setting says whether a file was trained with it."""
    layers = settings.get("token_mixing.layers")
    return None if layers is None else {"layers": layers}


def _actionclip(leaves: Leaves, settings: Mapping[str, Any], notes: list[str]) -> Options | None:
    """The head whose leaves are present; by default a convolution reads frames as published."""
    own = {
        path.removeprefix(f"{_FRAMES_HEAD}/") for path in leaves if path.startswith(_FRAMES_HEAD)
    }
    if "actionclip.published" in settings and "kernel" not in own:
        raise ConversionError("--set actionclip.published: there is no convolution over frames")
    if not own:
        return None
    if "kernel" in own:
        published = settings.get("actionclip.published", True)
        told = "set" if "actionclip.published" in settings else "as its code is"
        notes.append(f"actionclip.published: {published} ({told})")
        return {"sim_header": "Conv_1D", "published": published}
    if any(path.startswith(("input/", "state_")) for path in own):
        return {"sim_header": "LSTM"}
    cls = any(path.startswith(("class_", "layers_", "final_norm")) for path in own)
    table = "class_position_embedding" if cls else "position_embedding"
    rows = _rows(leaves, f"{_FRAMES_HEAD}/{table}", ActionCLIP.max_frames + cls) - cls
    return {
        "sim_header": "Transf_cls" if cls else "Transf",
        "layers": max(count_layers(leaves, f"{_FRAMES_HEAD}/{'layers' if cls else 'blocks'}_"), 1),
        "max_frames": rows,
    }


def _vificlip(leaves: Leaves) -> Options | None:
    """Prompts of both towers; the depth is one more than the index of the deepest block."""
    name = "vificlip_prompt"
    if not any(path.endswith(f"/{name}") for path in leaves):
        return None
    options: Options = {}
    for tower in ("visual", "text"):
        sets = [path for path in leaves if re.fullmatch(rf"{tower}/(blocks_\d+/)?{name}", path)]
        blocks = [int(found[1]) for p in sets if (found := re.search(r"blocks_(\d+)", p))]
        rows = common_size(leaves, rf"{tower}/(blocks_\d+/)?{name}", axis=0) if sets else 0
        options |= {f"{tower}_tokens": rows, f"{tower}_depth": max(blocks, default=0) + 1}
    return options


def _mote(leaves: Leaves) -> Options | None:
    """As many experts as any block has, so that a block with fewer shows as missing tensors."""
    if not any(path.startswith(f"{_HEAD}/") for path in leaves):
        return None
    known = leaves.get("mote/classes", np.zeros((0, 0)))
    experts = (re.fullmatch(rf"{_HEAD}/blocks_\d+/mlp/fc1_(\d+)/kernel", path) for path in leaves)
    return {
        "layers": count_layers(leaves, f"{_HEAD}/blocks_"),
        "experts": max((int(found[1]) + 1 for found in experts if found), default=1),
        "max_frames": _rows(leaves, f"{_HEAD}/position_embedding", MoTE.max_frames),
        "classes": len(known) if known.ndim == 2 else 1,
    }


def _vita_clip(leaves: Leaves, settings: Mapping[str, Any], notes: list[str]) -> Options | None:
    """Prompts of the kinds present; tensors can't tell their position, which may be set."""
    if not any(path.startswith(f"{_PROMPTS}/") for path in leaves):
        if "vita_clip.position" in settings:
            raise ConversionError("--set vita_clip.position: there are no prompts of Vita-CLIP")
        return None
    context = leaves.get("text/vita_clip/context", np.zeros((0, 0)))
    prompts = leaves.get(f"{_PROMPTS}/global_prompts", np.zeros((0, 0, 0)))
    options = {
        "frames": _rows(leaves, f"{_PROMPTS}/time_embedding", VitaCLIP.frames),
        "global_prompts": prompts.shape[1] if prompts.ndim == 3 else 1,
        "local": any(path.startswith(f"{_PROMPTS}/local_prompts_") for path in leaves),
        "summary": any("/vita_clip/summary_" in path for path in leaves),
        "text_prompts": context.shape[-2] if context.ndim in (2, 3) else 1,
        "classes": len(context) if context.ndim == 3 else 0,
    }
    if not options["text_prompts"]:
        return options
    position = settings.get("vita_clip.position", "end")
    told = "set" if "vita_clip.position" in settings else "as published"
    notes.append(f"vita_clip.position: {position} ({told})")
    return options | {"position": position}


def _xclip(leaves: Leaves) -> Options | None:
    if not any("/xclip" in path or path.startswith("xclip") for path in leaves):
        return None
    return {
        "mit_layers": max(count_layers(leaves, "visual/xclip_frames/blocks_"), 1),
        "prompt_layers": max(count_layers(leaves, "xclip_prompts/blocks_"), 1),
    }


def _btadapter(leaves: Leaves) -> Options | None:
    """Gated where either balance tensor is present, plain where none is; without gates and without
    a class token of its own, the branch has STAN's."""
    if not any(path.startswith(_BRANCH) for path in leaves):
        return None
    gated = any(f"{_BRANCH}/{gate}" in leaves for gate in ("layer_gate", "final_gate"))
    aligned = any(path.startswith(f"{_BRANCH}/alignment/") for path in leaves)
    stan = {"class_token": "backbone"} if _is_stan(leaves, gated) else {}
    convolved = any(re.fullmatch(rf"{_BRANCH}/temporal_\d+/conv/.*", path) for path in leaves)
    return stan | {
        **({"time_module": "conv"} if convolved else {}),
        "depth": max(
            count_layers(leaves, f"{_BRANCH}/{kind}_") for kind in ("spatial", "temporal")
        ),
        "gates": "vector" if gated else "none",
        "alignment": "normalized" if aligned else "none",
        "max_frames": _rows(leaves, f"{_BRANCH}/time_embedding", BTAdapter.max_frames),
    }


def _is_stan(leaves: Leaves, gated: bool) -> bool:
    return not gated and f"{_BRANCH}/class_token" not in leaves


def _lora(leaves: Leaves) -> Options | None:
    """LoRA in TempMe's form: in every attention of both towers, else tensors are missing."""
    if not any(re.search(r"/lora_[ab]$", path) for path in leaves):
        return None
    return {"rank": common_size(leaves, r".*/lora_a")}


def _tempme(
    leaves: Leaves, patch_size: int, settings: Mapping[str, Any], notes: list[str]
) -> Options | None:
    clips = _clips(leaves)
    chosen = {
        key.removeprefix("tempme."): value
        for key, value in settings.items()
        if key.startswith("tempme.")
    }
    if not clips:
        if chosen:
            raise ConversionError(f"--set tempme.{next(iter(chosen))}: there are no clip positions")
        return None
    options = {"layers": tuple(clips), "join": chosen.pop("join", None) or _join(clips, notes)}
    published = PUBLISHED.get(patch_size, {})
    for key in ("r", "keep_cross", "keep_intra"):
        value = chosen.get(key, published.get(key))
        if value is None:
            raise ConversionError(
                f"tensors can't tell tempme.{key}, and none is published for patches of "
                f"{patch_size} pixels; --set tempme.{key}=N"
            )
        options[key] = value
        origin = "set" if key in chosen else f"as published for patches of {patch_size} pixels"
        notes.append(f"tempme.{key}: {value} ({origin})")
    return options


def _clips(leaves: Leaves) -> dict[int, int]:
    """{layer: clips that enter it}, ascending."""
    found = {
        int(match[1]): len(leaf)
        for path, leaf in leaves.items()
        if (match := _CLIP_POSITION.fullmatch(path))
    }
    return dict(sorted(found.items()))


def _join(clips: Mapping[int, int], notes: list[str]) -> tuple[int, ...]:
    """Clips that each layer joins: those that enter it, divided by those that enter the next."""
    for (layer, entering), (following, fewer) in pairwise(clips.items()):
        if entering % fewer:
            raise ConversionError(
                f"clip positions of layer {layer} are for {entering} clips, of layer {following} "
                f"for {fewer}: not a whole number of them joined"
            )
    *before, last = clips.values()
    notes.append(f"tempme.join: {last} in the last layer, so that one clip is left (assumed)")
    return (*(a // b for a, b in pairwise((*before, last))), last)
