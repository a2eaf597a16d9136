"""Sizes of a chat model and options of its branch: from configs, from leaves, from settings."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from vlt.convert.chat.parts import Part, Together
from vlt.convert.errors import ConversionError
from vlt.convert.layouts.clip import CLIP_HF
from vlt.convert.layouts.huggingface import clip_vision_spec, count
from vlt.convert.layouts.llama import huggingface_spec, inferred_spec, meta_spec
from vlt.convert.layouts.qformer import qformer_spec
from vlt.convert.tables.lazy import Lazy
from vlt.convert.tables.sizes import (
    check_layers,
    common_size,
    count_layers,
    infer_vision,
    told_heads,
)
from vlt.models.interpolation import resize_positions
from vlt.models.leaf_names import PLACES
from vlt.models.sizes import SIZES
from vlt.models.spec import ChatSpec, LlamaSpec, QFormerSpec, VisionSpec, with_visual

Settings = Mapping[str, Any]

_BRANCH = "visual/btadapter"
# Settings that a chat model has a use for.
_TAKEN = (
    r"(chat|preprocessing)\.\w+|btadapter\.(gates|spare)|qformer\.heads|"
    r"text\.(heads|norm_eps|context|new_rows)|visual\.(heads|norm_eps|activation|image_size)"
)
# Vision towers that start at random, by `ChatSpec.read`: CLIP-L/14, and 39 blocks of EVA-CLIP-G.
_VISION = {
    2: SIZES["clip_l14"].visual,
    1: with_visual(SIZES["eva_clip_g"], layers=39).visual,
}
_QFORMER_WORDS = (
    r"connector/qformer/(token_embedding/.*|position_embedding|blocks_\d+/mlp(_norm)?/.*)"
)


@dataclasses.dataclass(frozen=True)
class Chat:
    """A kind of chat model.

    read: as in `ChatSpec`. cls: where its class token stands, without and with a branch. unread:
    regex of leaves that files hold but the model lacks. words: whether its Q-Former reads an
    instruction. start: id of the token that prompts begin with. language: the language model that
    its published files were trained with.
    """

    read: int
    cls: tuple[str, str]
    language: str
    unread: str = r"(?!)"
    words: bool = False
    start: int = 1


CHATS = {
    "llava": Chat(2, ("none", "last"), "their own weights, or Vicuna v1.5 (v1.5)"),
    "minigpt4": Chat(
        1,
        ("first", "first"),
        "Vicuna v0, or LLaMA-2 chat",
        rf"visual/post_norm/.*|{_QFORMER_WORDS}",
    ),
    # LAVIS' tokenizer uses </s> as the token that starts a text, too.
    "instructblip": Chat(
        1, ("first", "first"), "Vicuna v1.1", r"visual/post_norm/.*", words=True, start=2
    ),
}


def check_settings(settings: Settings) -> None:
    """Raises ConversionError for a setting that only other models have."""
    for key in settings:
        if not re.fullmatch(_TAKEN, key):
            raise ConversionError(f"--set {key}: a chat model has no use for it")


def resize_tower(
    together: Together, spec: ChatSpec, settings: Settings, notes: list[str]
) -> ChatSpec:
    """The spec for the image size that is set; the positions in `together` are interpolated to it.

    Raises ConversionError: the size is not a whole number of patches.
    """
    size, visual = settings.get("visual.image_size", spec.visual.image_size), spec.visual
    if size == visual.image_size or PLACES not in together.leaves:
        return spec
    if size < visual.patch_size or size % visual.patch_size:
        raise ConversionError(
            f"--set visual.image_size={size}: not a multiple of the patches' {visual.patch_size}"
        )
    table, side = together.leaves[PLACES], size // visual.patch_size

    def read() -> np.ndarray:
        return resize_positions(table.values().astype(np.float32), side)

    shape = (side**2 + 1, visual.width)
    together.leaves[PLACES] = Lazy(shape, np.dtype(np.float32), read, table.origin)
    notes.append(f"position embedding: resized from {visual.image_size} pixels")
    return dataclasses.replace(spec, visual=dataclasses.replace(visual, image_size=size))


def chat_spec(
    chat: str,
    together: Together,
    random: Sequence[str],
    settings: Settings,
    notes: list[str],
) -> ChatSpec:
    """The spec of the parts, of published sizes where they start at random; adds to the notes.

    Raises ConversionError: something that no config or setting says and that leaves can't tell.
    """
    kind, leaves = CHATS[chat], together.leaves
    qformer = None
    if any(path.startswith("connector/qformer/") for path in leaves) or chat != "llava":
        qformer = _qformer(chat, together, random, settings, notes)
    mlp = any(path.startswith("connector/fc1/") for path in leaves)
    simple = settings.get("chat.connector", "mlp" if mlp else "linear")
    branch = "branch" in random or any(path.startswith(f"{_BRANCH}/") for path in leaves)
    visual = _visual(chat, together, random, settings, notes)
    return ChatSpec(
        visual=visual,
        text=dataclasses.replace(_text(together, settings, notes), start_id=kind.start),
        connector="qformer" if qformer else simple,
        qformer=qformer,
        # Both kinds of VideoPrism have the LayerNorm after the second stage in their weights.
        read=1 if visual.stages else kind.read,
        tokens=settings.get("chat.tokens", "mean"),
        cls=settings.get("chat.cls", kind.cls[branch] if visual.cls else "none"),
    )


def _origin(together: Together, part: str) -> Part:
    origins = together.origins(part)
    if not origins:
        raise ConversionError(
            f"{part}: not given, so its sizes are unknown; --{part}=FILE names it"
        )
    return origins[-1]


def _visual(
    chat: str, together: Together, random: Sequence[str], settings: Settings, notes: list[str]
) -> VisionSpec:
    if "vision" in random and not together.of("vision"):
        return _VISION[CHATS[chat].read]
    part, leaves = _origin(together, "vision"), together.of("vision")
    if part.family is CLIP_HF and part.folder:
        notes.append(f"vision: heads, activation, epsilon: {part.path}/config.json")
        spec = clip_vision_spec(part.folder)
        check_layers(part.path / "config.json", spec.layers, leaves, "visual/blocks_")
        return spec
    known = _stated_heads(part, "vision_config", "visual.heads")
    known |= {key: n for key, n in told_heads(part.rows).items() if key == "visual.heads"}
    family = part.family
    if family.visual.get("pool") == "attention":
        # A language model reads the tokens, and nothing pools them.
        pool = "cls" if "visual/class_embedding" in leaves else "mean"
        family = dataclasses.replace(family, visual=family.visual | {"pool": pool})
    return infer_vision(leaves, family, dict(settings) | known, notes)


def _stated_heads(part: Part, section: str, key: str) -> dict[str, int]:
    """{key: heads} from a section of config.json, empty where it gives none."""
    stated = (part.config or {}).get(section, {})
    path = part.path / "config.json"
    if not isinstance(stated, dict):
        raise ConversionError(f"{path}: {section} is not an object")
    if "num_attention_heads" not in stated:
        return {}
    return {key: count(path, SimpleNamespace(**stated), "num_attention_heads")}


def _text(together: Together, settings: Settings, notes: list[str]) -> LlamaSpec:
    part, leaves = origin_of_blocks(together), together.of("llm")
    if part.config is None and part.params is None:
        return inferred_spec(leaves, settings, notes)
    if stated := [key for key in settings if key.startswith("text.") and key != "text.new_rows"]:
        raise ConversionError(f"--set {stated[0]}: read from the config in {part.path}, not set")
    if part.params is not None:
        spec = meta_spec(part.path, part.params, leaves)
        check_layers(part.path / "params.json", spec.layers, leaves, "text/blocks_")
        return spec
    assert part.config is not None
    config, path = part.config.get("text_config", part.config), part.path / "config.json"
    if not isinstance(config, dict):
        raise ConversionError(f"{path}: text_config is not an object")
    spec = huggingface_spec(path, config, leaves)
    check_layers(path, spec.layers, leaves, "text/blocks_")
    if (said := config.get("vocab_size", spec.vocab)) != spec.vocab:
        notes.append(f"vocabulary: {spec.vocab} words; {part.path}/config.json says {said}")
    return spec


def origin_of_blocks(together: Together) -> Part:
    """The part that the language model's blocks come from.

    Raises ConversionError: there is none.
    """
    norm = "text/final_norm/scale"
    if norm not in together.origin:
        raise ConversionError("llm: not given; --llm=FOLDER names it")
    return together.origin[norm]


def _qformer(
    chat: str, together: Together, random: Sequence[str], settings: Settings, notes: list[str]
) -> QFormerSpec:
    if "connector" in random and not together.of("connector"):
        words = (30523, 512) if CHATS[chat].words else (0, 0)
        return QFormerSpec(32, 768, 12, 12, 3072, 1408, 2, *words)
    part, leaves = _origin(together, "connector"), together.of("connector")
    if "connector/queries" not in leaves:
        raise ConversionError(
            f"connector: {part.path} holds no Q-Former, which {chat} has; --connector=FILE names "
            "the file of BLIP-2 or InstructBLIP that does"
        )
    origin = together.origin["connector/queries"]
    known = _stated_heads(origin, "qformer_config", "qformer.heads")
    spec = qformer_spec(leaves, dict(settings) | known, notes)
    if CHATS[chat].words and not spec.vocab:
        raise ConversionError(
            f"connector: the Q-Former of {part.path} has no words; InstructBLIP's reads texts"
        )
    return spec


def infer_branch(
    together: Together, random: bool, settings: Settings, notes: list[str]
) -> dict[str, dict[str, Any]]:
    """{method: options} of the branch, if there is one; adds leaves that its files leave out.

    Raises ConversionError: settings for a branch that does not exist.
    """
    leaves = together.of("branch")
    if not leaves and not random:
        if stated := [key for key in settings if key.startswith("btadapter.")]:
            raise ConversionError(f"--set {stated[0]}: there is no branch; --branch=FILE names one")
        return {}
    depth = max(count_layers(leaves, f"{_BRANCH}/{x}_") for x in ("spatial", "temporal")) or 3
    frames = common_size(leaves, f"{_BRANCH}/time_embedding", axis=0) if leaves else 64
    options = {
        "depth": depth,
        "spare": settings.get("btadapter.spare", int(depth > 3)),
        "gates": settings.get("btadapter.gates", _gates(together, leaves, depth, notes)),
        "alignment": "none",
        "max_frames": frames,
    }
    return {"btadapter": options}


def _gates(together: Together, leaves: Mapping[str, Lazy], depth: int, notes: list[str]) -> str:
    """Vector gates where a branch beside CLIP has them or starts at random. A branch that was tuned
    for conversation was trained with gates that its file leaves out: they stay at 0, where training
    starts."""
    paths = [f"{_BRANCH}/{gate}" for gate in ("layer_gate", "final_gate")]
    clip = "visual/pre_norm/scale" in together.leaves  # a branch beside EVA-CLIP has no gates
    held = [path for path in paths if path in leaves]
    if held or not leaves:
        return "vector" if clip else "none"
    if not clip or depth > 3:
        return "none"
    width = leaves[f"{_BRANCH}/class_token"].shape if f"{_BRANCH}/class_token" in leaves else (1,)
    for path in paths:
        together.leaves[path] = Lazy.of(path, np.zeros(width, np.float32))
        notes.append(f"{path}: 0, where training starts and stays, not in the file")
    return "vector"
