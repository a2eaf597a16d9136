"""Builds the model folder of a chat model from published parts, tensor by tensor."""

import dataclasses
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from vlt.convert.chat.parts import PARTS, Part, Together, put_together, read_part, with_delta
from vlt.convert.chat.specs import (
    CHATS,
    chat_spec,
    check_settings,
    infer_branch,
    origin_of_blocks,
    resize_tower,
)
from vlt.convert.chat.vocabulary import fit_vocabulary
from vlt.convert.chat.words import read_words, write_qformer_words, write_words
from vlt.convert.errors import ConversionError
from vlt.convert.nonfinite import about_nonfinite, refuse_nonfinite
from vlt.convert.preprocessing import default_preprocessing, preprocessing, with_settings
from vlt.convert.report import aligned_table, compact_table, full_table
from vlt.convert.tables.lazy import Lazy, total_bytes
from vlt.model_io.build import init_params, make_model
from vlt.model_io.folder import (
    MODEL_FOLDER,
    QFORMER,
    ModelConfig,
    check_replaceable,
    model_shapes,
    new_folder,
    write_beside_weights,
)
from vlt.model_io.view import View
from vlt.models.spec import ChatSpec
from vlt.models.spec_reading import spec_from_dict
from vlt.models.video_model import ANY_FRAMES
from vlt.pytrees.fields import near
from vlt.pytrees.paths import by_path
from vlt.storage.trees import save_leaf_by_leaf

Settings = Mapping[str, Any]
# Parts that can be requested to start at random. The projection is the part of a connector that
# MiniGPT-4's first stage trains after BLIP-2's Q-Former.
RANDOM = {part: pattern for part, pattern in PARTS.items() if part != "llm"} | {
    "projection": r"connector/(projection|fc[12])/.*"
}
_FRAMES = 64  # in BT-Adapter's conversations


@dataclasses.dataclass(frozen=True)
class Given:
    """What a chat model is made of.

    chat: a key of `CHATS`; '' to infer it from the first part, `source` where given. source: a file
    or folder that may hold all parts; llm, vision: one that holds that part; delta: what is added
    to llm. connector, branch: one or more, of which later ones take precedence. random: parts that
    no file gives and that start as in training. qformer_tokenizer: BERT's words, where no folder
    holds them. family: that of `source`.
    """

    chat: str = ""
    source: Path | None = None
    llm: Path | None = None
    delta: Path | None = None
    vision: Path | None = None
    connector: Sequence[Path] = ()
    branch: Sequence[Path] = ()
    random: Sequence[str] = ()
    qformer_tokenizer: Path | None = None
    family: str | None = None


def convert_chat(
    given: Given,
    target: Path,
    settings: Settings,
    tokenizer: str | None = None,
    overwrite: bool = False,
    key: str | None = None,
    allow_nonfinite: bool = False,
) -> str:
    """Writes the model folder of a chat model; returns the compact report.

    The language model's weights are stored as published, mostly in 16 bits, and those of other
    parts in float32, since they may be trained. They are processed one by one, so that memory holds
    only a few tensors. key: applies to `source` only.

    Raises:
        ConversionError: as `vlt.convert.convert`; also a part that is missing, or that is a delta.
        ModelFolderError: the target exists.
    """
    check_replaceable(target, overwrite, MODEL_FOLDER)
    _check_random(given.random)
    check_settings(settings)
    parts = _read(given, key)
    chat = _chat(given, parts)
    for part in parts:
        part.lose(CHATS[chat].unread, f"which {chat} does not read")
    together = put_together(parts)
    notes = [f"llm: the published files of {chat} go with {CHATS[chat].language}"]
    notes += [*(note for part in parts for note in part.notes), *together.notes]
    own = origin_of_blocks(together).folder
    words = read_words(Path(tokenizer) if tokenizer else own)
    branch = bool(together.of("branch")) or "branch" in given.random
    words = fit_vocabulary(chat, together, words, branch, settings, notes)
    config = _config(chat, together, given.random, settings, notes)
    spec = config.spec
    assert isinstance(spec, ChatSpec)
    leaves = _complete(together, spec, config.methods, given.random, notes)
    source = {"layout": chat, "dtypes": _dtypes(leaves), "parts": _origins(together)}
    config = dataclasses.replace(config, source=source)
    head = _heading(target, config, together, given.random, notes)
    rows = [row for part in parts for row in part.rows]
    with tempfile.TemporaryDirectory() as temporary:
        files = Path(temporary) / "tokenizer"
        write_words(words, files, spec)
        if spec.instructed:
            write_qformer_words(_qformer_words(given, own), files / QFORMER, spec)
        with new_folder(target, overwrite, MODEL_FOLDER) as unfinished:
            found = _write_weights(unfinished / "weights", leaves)
            refuse_nonfinite(target, found, allow_nonfinite)
            head = "\n".join([head, *found])
            write_beside_weights(unfinished, config, files, f"{head}\n\n{full_table(rows)}\n")
    return f"{head}\n\n{compact_table(rows)}\n"


def _config(
    chat: str,
    together: Together,
    random: Sequence[str],
    settings: Settings,
    notes: list[str],
) -> ModelConfig:
    """Everything in config.json except `source`; adds to the notes."""
    spec = chat_spec(chat, together, random, settings, notes)
    methods = infer_branch(together, "branch" in random, settings, notes)
    spec = resize_tower(together, spec, settings, notes)
    try:
        spec_from_dict(spec.to_dict())
    except ValueError as error:
        raise ConversionError(f"these parts do not make a chat model: {error}") from error
    pixels = with_settings(*_pixels(together, spec), settings, notes)
    view = View("conversation_middle", _FRAMES) if methods else View()
    return ModelConfig(chat, spec, methods, pixels, view=view)


def _pixels(together: Together, spec: ChatSpec) -> tuple[dict[str, Any], str]:
    """The `preprocessing` that the vision tower was trained with, and where it comes from."""
    layouts = [origin.family for origin in together.origins("vision")]
    if layouts and layouts[-1].pixels:
        entry = default_preprocessing(spec) | layouts[-1].pixels
        return entry, f"as in {layouts[-1].name}"
    return preprocessing(_folder_of(together, "vision"), spec)


def _write_weights(folder: Path, leaves: Mapping[str, Lazy]) -> list[str]:
    """Writes the leaves one by one; returns a line on each that is not finite."""
    found: list[str] = []
    stored = _stored(leaves)
    save_leaf_by_leaf(folder, _checked(stored, found), total_bytes(stored))
    return found


def _check_random(random: Sequence[str]) -> None:
    for part in random:
        if part == "llm":
            raise ConversionError("--random=llm: a language model is always given, with --llm")
        if part not in RANDOM:
            raise ConversionError(f"--random={part}: unknown part{near(part, RANDOM)}")


def _read(given: Given, key: str | None) -> list[Part]:
    """Reads every part; a base and its delta become one."""
    found = [read_part("source", given.source, key, given.family)] if given.source else []
    if given.delta and not given.llm:
        raise ConversionError(f"--delta={given.delta}: --llm gives the base that it is added to")
    if given.llm:
        llm = read_part("llm", given.llm)
        found.append(with_delta(llm, read_part("llm", given.delta)) if given.delta else llm)
    if given.vision:
        found.append(read_part("vision", given.vision))
    found += [read_part("connector", path) for path in given.connector]
    found += [read_part("branch", path) for path in given.branch]
    if not found:
        raise ConversionError("nothing is given: --llm, --vision, --connector, --branch name parts")
    return found


def _chat(given: Given, parts: Sequence[Part]) -> str:
    """The kind of chat model, as asked for or inferred from the first part."""
    if given.chat:
        if given.chat not in CHATS:
            raise ConversionError(f"unknown --chat: {given.chat!r}{near(given.chat, CHATS)}")
        return given.chat
    told = parts[0].family.model
    if told not in CHATS:
        raise ConversionError(
            f"{parts[0].path}: a part of a chat model (layout {parts[0].family.name}); name the "
            f"model with --chat={'|'.join(CHATS)}, and give the other parts with --llm, --vision, "
            "--connector, --branch"
        )
    return told


def _folder_of(together: Together, part: str) -> Path | None:
    folders = (origin.folder for origin in together.origins(part))
    return next((folder for folder in folders if folder), None)


def _qformer_words(given: Given, folder: Path | None) -> Path | None:
    """Path of the Q-Former's words; transformers saves them in a folder of their own."""
    inside = folder / "qformer_tokenizer" if folder else None
    return given.qformer_tokenizer or (inside if inside and inside.is_dir() else None)


def _complete(
    together: Together,
    spec: ChatSpec,
    methods: Mapping[str, dict[str, Any]],
    random: Sequence[str],
    notes: list[str],
) -> dict[str, Lazy]:
    """All leaves of the model: those given, and those that may start at random.

    Raises ConversionError that lists, in at most 60 lines, every part that is missing and every
    leaf that is missing, unexpected or of a wrong shape.
    """
    try:
        tree = model_shapes(spec, methods)
    except ValueError as error:
        raise ConversionError(f"these parts do not make a chat model: {error}") from error
    shapes = {path: leaf.shape for path, leaf in by_path(tree).items()}
    leaves = together.leaves
    fresh = [
        path
        for path in shapes
        if path not in leaves and any(re.fullmatch(RANDOM[part], path) for part in random)
    ]
    wrong = _absent_parts(shapes, [*leaves, *fresh])
    wrong += [f"missing: {path}" for path in shapes if path not in leaves and path not in fresh]
    for path, leaf in leaves.items():
        if path not in shapes:
            wrong.append(f"unexpected: {leaf.origin} (the model has no {path})")
        elif leaf.shape != shapes[path]:
            wanted = f"{path} is {list(leaf.shape)}, wanted {list(shapes[path])}"
            wrong.append(f"wrong_shape: {leaf.origin} ({wanted})")
    for part in random:
        if not any(re.fullmatch(RANDOM[part], path) for path in fresh):
            wrong.append(f"--random={part}: all of it is given, or the model has none")
    if wrong:
        raise ConversionError("\n  ".join(["these parts do not make a chat model:", *wrong[:60]]))
    return dict(leaves) | _fresh(spec, methods, fresh, leaves)


def _absent_parts(shapes: Mapping[str, Any], held: Sequence[str]) -> list[str]:
    """A line on each wholly missing part; drops its paths from `shapes`, to leave them unlisted."""
    lines = []
    for part, pattern in PARTS.items():
        wanted = [path for path in shapes if re.fullmatch(pattern, path)]
        if wanted and not any(re.fullmatch(pattern, path) for path in held):
            random = f", or --random={part}" if part in RANDOM else ""
            lines.append(f"{part}: not given; --{part}=FILE{random}")
            for path in wanted:
                del shapes[path]  # type: ignore[attr-defined]
    return lines


def _fresh(
    spec: ChatSpec,
    methods: Mapping[str, dict[str, Any]],
    fresh: Sequence[str],
    leaves: Mapping[str, Lazy],
) -> dict[str, Lazy]:
    """Leaves as training starts them; a branch's spatial layers are copies of the tower's."""
    if not fresh:
        return {}
    model = make_model(spec, methods, ANY_FRAMES)

    def initial(key: jax.Array) -> dict[str, jax.Array]:
        tree = traverse_util.flatten_dict(init_params(model, key), sep="/")
        return {path: tree[path] for path in fresh}

    new = {path: np.asarray(x) for path, x in jax.jit(initial)(jax.random.key(0)).items()}
    if any(path.startswith("visual/btadapter/") for path in fresh):
        tower = {p: leaf.values() for p, leaf in leaves.items() if p.startswith("visual/")}
        tree = traverse_util.unflatten_dict(tower | new, sep="/")
        for method in model.methods:
            tree = method.init_from_backbone(tree, spec)
        flat = traverse_util.flatten_dict(tree, sep="/")
        new = {path: np.asarray(flat[path]) for path in fresh}
    return {path: Lazy.of(f"random: {path}", array) for path, array in new.items()}


def _stored(leaves: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """The leaves as stored: the language model's 16-bit leaves stay, all others become float32."""
    return {path: _as_stored(path, leaf) for path, leaf in leaves.items()}


def _as_stored(path: str, leaf: Lazy) -> Lazy:
    half = leaf.dtype.name in ("float16", "bfloat16")
    if half and re.fullmatch(PARTS["llm"], path):
        return leaf

    def read() -> np.ndarray:
        values = leaf.values()
        wide = values.astype(np.float32)
        if not np.array_equal(wide.astype(values.dtype), values, equal_nan=True):
            raise ConversionError(f"{leaf.origin}: float32 can't hold its {values.dtype}")
        return wide

    return Lazy(leaf.shape, np.dtype(np.float32), read, leaf.origin)


def _checked(leaves: Mapping[str, Lazy], found: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields path and values of each leaf; adds a line to `found` on each that is not finite."""
    for path, leaf in leaves.items():
        values = leaf.values()
        if line := about_nonfinite(leaf.origin, values):
            found.append(line)
        yield path, values


def _dtypes(leaves: Mapping[str, Lazy]) -> dict[str, str]:
    """{path: dtype} of the leaves that were not published in float32."""
    return {path: x.dtype.name for path, x in leaves.items() if x.dtype != np.float32}


def _origins(together: Together) -> dict[str, list[str]]:
    return {
        part: [origin.path.name for origin in together.origins(part)]
        for part in PARTS
        if together.of(part)
    }


def _heading(
    target: Path,
    config: ModelConfig,
    together: Together,
    random: Sequence[str],
    notes: Sequence[str],
) -> str:
    """What the model is, where each part came from, and the notes."""
    spec = config.spec
    assert isinstance(spec, ChatSpec)
    table = [("part", "tensors", "loaded from", "layout")]
    for part in PARTS:
        held = together.of(part)
        origins = together.origins(part)
        started = part in random or (part == "connector" and "projection" in random)
        where = " and ".join([*(str(origin.path) for origin in origins), *["random"] * started])
        layouts = " and ".join(dict.fromkeys(origin.family.name for origin in origins))
        if held or where:
            table.append((part, str(len(held)), where, layouts))
        else:
            table.append((part, "0", "none (not asked for)", ""))
    lines = [f"{target}: {config.family}", *aligned_table(table).splitlines()]
    text, visual = spec.text, spec.visual
    lines += [
        f"visual: {visual.image_size} pixels, patch {visual.patch_size}, width {visual.width}, "
        f"{visual.layers} layers, {visual.heads} heads, states of the last but {spec.read - 1}, "
        f"class token {spec.cls}",
        f"text: context {text.context}, vocabulary {text.vocab}, width {text.width}, {text.layers} "
        f"layers, {text.heads} heads, MLP {text.mlp_width}, epsilon {text.norm_eps:g}",
    ]
    if spec.qformer:
        lines.append(
            f"Q-Former: {spec.qformer.queries} queries, width {spec.qformer.width}, "
            f"{spec.qformer.layers} layers, vocabulary {spec.qformer.vocab}"
        )
    for name, options in config.methods.items():
        lines.append(f"{name}: " + ", ".join(f"{k} {v}" for k, v in options.items()))
    return "\n".join([*lines, *notes])
