"""What became of every tensor, as text."""

import collections
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlt.convert.tables.table import Placed, Row
from vlt.model_io.folder import ModelConfig
from vlt.models.spec import BertSpec, EncoderSpec, LlamaSpec, TextSpec

_MOST_WORDS = 16  # of a name, to tell it from others


def full_table(rows: Iterable[Row]) -> str:
    """One line per tensor: name, shape, dtype, path, transform."""
    return _aligned([_cells([row]) for row in rows])


def compact_table(rows: Iterable[Row]) -> str:
    """One line per rule: tensors of its layers that share a shape and dtype are joined."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.rule.source, row.shape, row.dtype), []).append(row)
    return _aligned([_cells(group) for group in groups.values()])


def _cells(group: Sequence[Row]) -> tuple[str, ...]:
    first = group[0]
    transform = first.rule.transform.name
    if first.index is None:
        name, targets = first.source, first.rule.targets
    else:
        indices = [row.index for row in group if row.index is not None]
        label = _label(indices)
        name = re.sub(rf"([._]){first.index}\.", rf"\g<1>{label}.", first.source, count=1)
        start = first.rule.numbers.start if first.rule.numbers else 0
        label = _label([start + index for index in indices])
        targets = tuple(target.replace("{i}", label) for target in first.rule.targets)
    return name, str(list(first.shape)), first.dtype, _joined(targets), transform


def _label(indices: Iterable[int]) -> str:
    numbers = sorted(set(indices))  # two files may hold tensors of one name
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}-{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"


def _joined(targets: Sequence[str]) -> str:
    """a/query/b, a/key/b -> a/{query,key}/b."""
    if len(targets) == 1:
        return targets[0]
    start = os.path.commonprefix(list(targets)).rpartition("/")[0]
    end = targets[0].rpartition("/")[2]
    middle = (target[len(start) + 1 : -len(end) - 1] for target in targets)
    return f"{start}/{{{','.join(middle)}}}/{end}"


def _aligned(lines: list[tuple[str, ...]]) -> str:
    return aligned_table([("tensor", "shape", "dtype", "path", "transform"), *lines])


def aligned_table(lines: Sequence[tuple[str, ...]]) -> str:
    """Aligns rows of cells in columns."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def heading(
    path: Path,
    config: ModelConfig,
    placed: Placed,
    other: Sequence[str],
    notes: Sequence[str],
) -> str:
    """What was read, what it is, what was assumed, and what was left out."""
    visual = config.spec.visual
    joint = f", {visual.temporal_frames} frames jointly" if visual.temporal_frames else ""
    lines = [
        f"{path}: layout {config.source['layout']}, {config.spec.kind.replace('_', ' ')}",
        f"visual: {visual.image_size} pixels, patch {visual.patch_size}, width {visual.width}, "
        f"{visual.layers} layers, {visual.heads} heads, MLP {visual.mlp_width}, "
        f"{visual.activation}, epsilon {visual.norm_eps:g}{joint}",
    ]
    if not isinstance(config.spec, EncoderSpec):
        lines.append(_about_text(config.spec.text))
    if config.spec.embed_dim:
        lines.append(f"embedding: {config.spec.embed_dim}")
    for name, options in config.methods.items():
        lines.append(f"{name}: " + ", ".join(f"{k} {v}" for k, v in options.items()))
    lines += notes
    lines += [f"dropped (holds no weights): {name}" for name in placed.dropped]
    read = [row.source for row in placed.rows]
    left_out = summary(placed.left_out, read)
    lines += [f"left out (not read by this model): {part}" for part in left_out]
    lines += [f"ignored (not part of the state dict): {name}" for name in other]
    return "\n".join(lines)


def _about_text(text: TextSpec | BertSpec | LlamaSpec) -> str:
    return (
        f"text: context {text.context}, vocabulary {text.vocab}, width {text.width}, "
        f"{text.layers} layers, {text.heads} heads, MLP {text.mlp_width}, {text.activation}, "
        f"epsilon {text.norm_eps:g}"
    )


def summary(names: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """Tensors by the first words of their names, with counts: `text_encoder_m.* (200)`.

    The words are the fewest that no name of `others` begins with, or, where `_MOST_WORDS` are too
    few, the whole name.
    """
    taken = {words for name in others for words in _beginnings(name)}
    counts = collections.Counter(
        next((words for words in _beginnings(name) if words not in taken), name) for name in names
    )
    return [word if n == 1 else f"{word}.* ({n})" for word, n in counts.items()]


def _beginnings(name: str) -> list[str]:
    """The name's first word, its first two, and so on, up to `_MOST_WORDS`."""
    words = name.split(".")[:_MOST_WORDS]
    return [".".join(words[:count]) for count in range(1, len(words) + 1)]
