"""The parts of a chat model: read from files that hold one or several, and put together."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlt.convert.chat.deltas import add_delta, check_base_config, check_merged
from vlt.convert.errors import ConversionError
from vlt.convert.files.reading import read_checkpoint
from vlt.convert.layouts.btadapter import refuse_enormous
from vlt.convert.layouts.chat import EVA, LLAMA
from vlt.convert.layouts.huggingface import count
from vlt.convert.layouts.llama import META_DROPPED, is_meta, meta_rules, read_meta
from vlt.convert.layouts.prefixes import told_family
from vlt.convert.report import summary
from vlt.convert.tables.family import Family
from vlt.convert.tables.lazy import Lazy, place
from vlt.convert.tables.sizes import count_layers, count_stages
from vlt.convert.tables.stacked import unstack
from vlt.convert.tables.table import Row
from vlt.models.spec import ChatSpec

# Paths that belong to each part; a projector's file may also hold the words it was tuned with.
PARTS = {
    "llm": r"text/.*",
    "vision": r"visual/(?!btadapter/).*",
    "connector": r"connector/.*",
    "branch": r"visual/btadapter/.*",
}
_OWN = PARTS | {"connector": r"connector/.*|text/token_embedding/embedding", "source": r".*"}
_EMBEDDING = "text/token_embedding/embedding"
_FEW_ROWS = 8  # up to this many rows are added words alone, not a vocabulary
_EVA_BLOCKS = 40  # of EVA-CLIP-G; the last one is not read
# Leaves of a tower or a branch that only a joint space with texts uses.
_JOINT_SPACE = r"visual/(projection|pooler|btadapter/alignment)/.*"


@dataclasses.dataclass
class Part:
    """What one file or folder gives.

    role: a key of `PARTS`, or `source` for one that may hold all. rows: one per tensor that found
    its place. config: the config.json of a Hugging Face folder; params: Meta's params.json.
    left_out: names of tensors that a chat model doesn't read.
    """

    role: str
    path: Path
    family: Family
    leaves: dict[str, Lazy]
    rows: list[Row]
    config: dict[str, Any] | None = None
    params: dict[str, Any] | None = None
    left_out: list[str] = dataclasses.field(default_factory=list)
    dropped: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def folder(self) -> Path | None:
        return self.path if self.path.is_dir() else None

    def holds(self, part: str) -> bool:
        return any(re.fullmatch(PARTS[part], path) for path in self.leaves)

    def lose(self, pattern: str, why: str) -> None:
        """Removes the leaves whose paths match, and notes why."""
        gone = [path for path in self.leaves if re.fullmatch(pattern, path)]
        for path in gone:
            del self.leaves[path]
        if gone:
            self.notes.append(f"{self.path}: left out, {why}: {', '.join(_grouped(gone))}")


def _grouped(paths: Sequence[str]) -> list[str]:
    """Paths cut to three words, with `*` for numbers of layers, and their counts."""
    counts: dict[str, int] = {}
    for path in paths:
        key = "/".join(re.sub(r"_\d+$", "_*", word) for word in path.split("/")[:3])
        counts[key] = counts.get(key, 0) + 1
    return [f"{key} ({n})" if n > 1 else key for key, n in counts.items()]


def read_part(role: str, path: Path, key: str | None = None, family: str | None = None) -> Part:
    """Reads what a file or folder holds of a chat model; so far only names and sizes.

    Raises ConversionError: unreadable, of no known family, has names or sizes that its layout has
    no place for (all are listed), or holds nothing of the part that it was given for.
    """
    if path.is_dir() and is_meta(path):
        part = _read_meta_part(role, path)
    else:
        part = _read_published_part(role, path, key, family)
    part.lose(_JOINT_SPACE, "of a joint space with texts")
    if part.family.kind != ChatSpec.kind:
        part.lose(f"(?!{PARTS['vision']}|{PARTS['branch']}).*", "not of a vision tower")
    if role == "branch":
        part.lose(f"(?!{PARTS['branch']}).*", "not of the branch")
    if part.family in (EVA,) or part.family.model == "eva_clip":
        _without_last_block(part)
    if role != "source" and not part.holds(role):
        held = [name for name in PARTS if part.holds(name)]
        raise ConversionError(
            f"--{role}={path}: holds nothing of the {role} (layout {part.family.name}), but "
            f"{' and '.join(held) or 'nothing'} of a chat model"
        )
    return part


def _read_published_part(role: str, path: Path, key: str | None, asked: str | None) -> Part:
    checkpoint = read_checkpoint(path, key)
    refuse_enormous(checkpoint.tensors, path)
    family = told_family(checkpoint, asked)
    apart, _ = unstack(family.stacked or "(?!)", checkpoint.tensors, path)
    family = family.of_stages(count_stages(family.stages, map(family.canonical, apart)))
    tensors = {name: Lazy.of(f"{path}: {name}", x) for name, x in apart.items()}
    if family.kinds:
        raise ConversionError(f"{path}: layout {family.name} is not a part of a chat model")
    part = _placed(role, path, family, tensors)
    part.config = checkpoint.config
    part.notes += [f"{path}: {note}" for note in checkpoint.notes]
    return part


def _read_meta_part(role: str, path: Path) -> Part:
    tensors, params = read_meta(path)
    heads = count(path / "params.json", _Fields(params), "n_heads")
    rules = meta_rules(heads)
    family = dataclasses.replace(LLAMA, name="llama_meta", rules=rules, dropped=META_DROPPED)
    part = _placed(role, path, family, tensors)
    part.params = params
    return part


class _Fields:
    """An object whose attributes are the entries of a dict."""

    def __init__(self, fields: Mapping[str, Any]):
        self.__dict__.update(fields)


def _placed(role: str, path: Path, family: Family, tensors: dict[str, Lazy]) -> Part:
    placed, leaves = place(family.rules, tensors, family.canonical, family.dropped, family.left_out)
    wrong = [f"unexpected: {name} ({why})" for name, why in placed.unexpected.items()]
    wrong += [f"wrong_shape: {name} ({why})" for name, why in placed.wrong_shape.items()]
    if wrong:
        head = f"{path}: does not fit the layout {family.name}"
        raise ConversionError("\n  ".join([head, *wrong]))
    part = Part(role, path, family, leaves, placed.rows)
    part.left_out, part.dropped = placed.left_out, placed.dropped
    if placed.left_out:
        told = ", ".join(summary(placed.left_out))
        part.notes.append(f"{path}: left out, of other models: {told}")
    return part


def _without_last_block(part: Part) -> None:
    """Removes the last of EVA-CLIP-G's 40 blocks: MiniGPT-4 and InstructBLIP read its input."""
    blocks = count_layers(part.leaves, "visual/blocks_")
    if blocks == _EVA_BLOCKS:
        part.lose(rf"visual/blocks_{blocks - 1}/.*", "the last block, which is not read")
        part.lose(r"visual/post_norm/.*", "behind the last block")


def with_delta(base: Part, delta: Part) -> Part:
    """The language model that a base and a delta add up to, with the delta's projector, if any.

    Raises ConversionError: as `add_delta` and `check_base_config`.
    """
    check_base_config(base.config or base.params, str(base.path))
    leaves, kind = add_delta(base.leaves, delta.leaves, str(base.path), str(delta.path))
    whole = dataclasses.replace(delta, role="llm", leaves=leaves)
    if delta.config is None:
        whole.config, whole.params = base.config, base.params
    whole.notes = [*base.notes, *delta.notes, f"llm: {base.path} + {delta.path}: delta of {kind}"]
    return whole


@dataclasses.dataclass
class Together:
    """leaves: those of all parts, by path. origin: the part that each came from. new_rows: rows of
    just the words that a projector was tuned with."""

    leaves: dict[str, Lazy] = dataclasses.field(default_factory=dict)
    origin: dict[str, Part] = dataclasses.field(default_factory=dict)
    new_rows: Lazy | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    def of(self, part: str) -> dict[str, Lazy]:
        """The leaves of a part."""
        return {p: leaf for p, leaf in self.leaves.items() if re.fullmatch(PARTS[part], p)}

    def origins(self, part: str) -> list[Part]:
        """The `Part`s that the leaves of a part come from, each once."""
        found: list[Part] = []
        for path in self.of(part):
            if path in self.origin and self.origin[path] not in found:
                found.append(self.origin[path])
        return found


def put_together(parts: Sequence[Part]) -> Together:
    """Merges the leaves of all parts. A file that was given for a part takes precedence over one
    that also happens to hold it, and of several files for one part the later over the earlier.

    Raises ConversionError: the language model is a delta.
    """
    together = Together()
    for part in parts:
        if "text/final_norm/scale" in part.leaves:
            check_merged(part.leaves, str(part.path))
        if part.role == "connector" and _has_few_rows(part):
            together.new_rows = part.leaves.pop(_EMBEDDING)
    for own in (False, True):
        for part in parts:
            pattern = _OWN[part.role]
            _take(together, part, [p for p in part.leaves if bool(re.fullmatch(pattern, p)) == own])
    return together


def _has_few_rows(part: Part) -> bool:
    return _EMBEDDING in part.leaves and part.leaves[_EMBEDDING].shape[0] <= _FEW_ROWS


def _take(together: Together, part: Part, paths: Sequence[str]) -> None:
    replaced: dict[Path, list[str]] = {}
    for path in paths:
        if path in together.origin and together.origin[path] is not part:
            replaced.setdefault(together.origin[path].path, []).append(path)
        together.leaves[path], together.origin[path] = part.leaves[path], part
    for source, gone in replaced.items():
        together.notes.append(f"{part.path} goes before {source}: {', '.join(_grouped(gone))}")
