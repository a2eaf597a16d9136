"""What a family of checkpoints is: its table of names, and what its tensors can't tell."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors
from vlt.convert.tables.table import HEADS, HEADS_BIAS, HEADS_OUT, KEEP, LINEAR, Rule, Transform
from vlt.model_io.view import View
from vlt.models.spec import Spec


@dataclasses.dataclass(frozen=True)
class Kind:
    """One of several models that a layout is for.

    parts: first words of names that only some of the models have; a file with all of these, and no
    others, is of this kind. starts: leaves that only training reads and the layout has no place
    for, with the value that training starts from. made: the part that a file may lack where this
    kind is asked for, and the function that makes it from the tensors of another kind.
    """

    parts: tuple[str, ...]
    rules: tuple[Rule, ...]
    starts: dict[str, float] = dataclasses.field(default_factory=dict)
    made: tuple[str, Callable[[Tensors], Tensors]] | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """A published layout: its names, and what its code fixes that tensors can't tell.

    Attributes:
        name: its name for `--family`.
        sign: regex of names that tell this family from those after it in `FAMILIES`.
        rules: its table. renames: (regex, replacement) pairs that turn every published spelling
            into the table's own.
        dropped: regex of buffers that hold no weights. left_out: regex of tensors that only
            training or another model reads. optional: the same, {setting that keeps them: regex}.
            aliases: {regex of a tensor's second name: its first}. doubled: {regex of a first name:
            its second}, where the published code asks for both. ties: names of a checkpoint ->
            {second name: first}, where these depend on which names are present.
        constants: leaves that the checkpoint leaves out, because its code fixes them. starts: see
            `Kind`.
        zeros: {leaf: another of its shape}: leaves that the layout has and a model may lack, which
            are then written as zeros.
        activation: None where it must be set by hand. head_width: columns of an attention head.
            head_widths: {width of a tower: the same}, where it differs. pool_heads: heads of
            attention pooling; 0 for as many as the tower's.
        model: the family that a converted folder names. kind: that of its spec. kinds: by kind of
            spec, where the layout is for several; `for_kind` then gives the one with rules.
        visual, text: fields of the towers' specs that differ from CLIP's. image_sizes: {(patches in
            a row, their side): pixels} of images that are not a whole number of patches. pixels:
            entries of `preprocessing` where its code differs from the defaults.
        adapter: regex of names; a file that holds only these is completed from another folder.
            alone: what such a file is, and what to do.
            completed: regex of the leaves that are then taken from that folder.
        superseded: {leaf: regex of others}: the leaf is left out if one of the others is present.
            methods: options of methods that this layout tells, but no leaf does.
        stacked: regex of the words before the number of a layer, where one array may hold all
            layers, see `vlt.convert.tables.stacked`. root: the first word of the names in the .npz
            file that it is published as; empty for torch and safetensors files.
        fixed_scale: scale of the cosines, where the layout has no place for it.
        stages: for each of `VisionSpec.stages`, what the names of its blocks begin with, up to
            their number; `of_stages` then gives the layout for given counts of blocks.
        frame_norm: whether its code averages unit vectors of frames. options: options of methods
            that its code fixes. view: which frames of a video its evaluation sees, and how.
    """

    name: str
    sign: str
    rules: tuple[Rule, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    dropped: str = r"(.*\.)?position_ids"
    left_out: str = r"(?!)"
    optional: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    doubled: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ties: Callable[[Iterable[str]], dict[str, str]] = lambda names: {}
    constants: dict[str, float] = dataclasses.field(default_factory=dict)
    starts: dict[str, float] = dataclasses.field(default_factory=dict)
    zeros: dict[str, str] = dataclasses.field(default_factory=dict)
    activation: str | None = "quick_gelu"
    head_width: int = 64
    head_widths: Mapping[int, int] = dataclasses.field(default_factory=dict)
    pool_heads: int = 0
    model: str = "clip"
    kind: str = "dual_encoder"
    kinds: Mapping[str, Kind] = dataclasses.field(default_factory=dict)
    visual: dict[str, Any] = dataclasses.field(default_factory=dict)
    text: dict[str, Any] = dataclasses.field(default_factory=dict)
    image_sizes: Mapping[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    adapter: str | None = None
    alone: str = (
        "an adapter alone; --set base=FOLDER names the model folder it was trained on, which has "
        "the tensors that the file leaves out"
    )
    completed: str = ".*"
    pixels: dict[str, Any] = dataclasses.field(default_factory=dict)
    stacked: str = ""
    root: str = ""
    fixed_scale: float = 0.0
    stages: tuple[str, ...] = ()
    frame_norm: bool = False
    superseded: Mapping[str, str] = dataclasses.field(default_factory=dict)
    methods: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    view: View = View()

    def has(self, path: str) -> bool:
        """Whether a rule has a place for the leaf at this path."""
        return any(path in rule.targets for rule in self.rules)

    def canonical(self, name: str) -> str:
        """The table's spelling of a published name."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def for_spec(self, spec: Spec) -> "Family":
        """The layout of a model with this spec, with its rules.

        Raises ConversionError: the layout has no such kind, or another number of stages.
        """
        chosen = self.for_kind(spec.kind)
        if len(chosen.stages) != len(spec.visual.stages):
            raise ConversionError(
                f"layout {self.name} is for vision towers of {max(len(self.stages), 1)} stages, "
                f"this one has {max(len(spec.visual.stages), 1)}"
            )
        return chosen.of_stages(spec.visual.stages)

    def of_stages(self, blocks: Sequence[int]) -> "Family":
        """The layout for these numbers of blocks per stage; leaves are numbered across stages."""
        if not self.stages:
            return self
        starts = itertools.accumulate(blocks, initial=0)
        numbers = {
            stage: range(start, start + count)
            for stage, start, count in zip(self.stages, starts, blocks, strict=False)
        }
        rules = tuple(
            dataclasses.replace(rule, numbers=numbers[stage])
            if (stage := next(filter(rule.source.startswith, self.stages), None))
            else rule
            for rule in self.rules
        )
        visual = self.visual | {"stages": tuple(blocks)}
        return dataclasses.replace(self, rules=rules, visual=visual)

    def for_kind(self, kind: str) -> "Family":
        """The layout of one kind of model, with its rules.

        Raises ConversionError: the layout has no such kind.
        """
        known = [*self.kinds] or [self.kind]
        if kind not in known:
            raise ConversionError(f"layout {self.name} is for {', '.join(known)}, not {kind}")
        if not self.kinds:
            return self
        chosen = self.kinds[kind]
        return dataclasses.replace(self, kind=kind, rules=chosen.rules, starts=chosen.starts)


def dense(source: str, target: str) -> list[Rule]:
    """A torch Linear with bias."""
    return [
        Rule(f"{source}.weight", (f"{target}/kernel",), LINEAR),
        Rule(f"{source}.bias", (f"{target}/bias",)),
    ]


def norm(source: str, target: str) -> list[Rule]:
    """A LayerNorm."""
    return [
        Rule(f"{source}.weight", (f"{target}/scale",)),
        Rule(f"{source}.bias", (f"{target}/bias",)),
    ]


def fused(source: str, target: str, leaf: str, transform: Transform) -> Rule:
    """One tensor that holds the `leaf` of queries, keys and values."""
    paths = tuple(f"{target}/{name}/{leaf}" for name in ("query", "key", "value"))
    return Rule(source, paths, transform)


def flax_dense(source: str, target: str) -> list[Rule]:
    """A Flax Dense layer with bias."""
    return [
        Rule(f"{source}.kernel", (f"{target}/kernel",), KEEP),
        Rule(f"{source}.bias", (f"{target}/bias",)),
    ]


def flax_norm(source: str, target: str) -> list[Rule]:
    """A Flax LayerNorm."""
    return [Rule(f"{source}.{leaf}", (f"{target}/{leaf}",)) for leaf in ("scale", "bias")]


def flax_attention(
    source: str,
    target: str,
    leaves: tuple[str, str] = ("kernel", "bias"),
    out: str = "out",
    out_kernel: Transform = HEADS_OUT,
) -> list[Rule]:
    """Flax's attention, whose leaves have an axis of heads.

    leaves: names of its kernels and of its biases. out, out_kernel: name of the layer after the
    heads, and the transform of its kernel.
    """
    kernel, bias = leaves
    rules = [
        rule
        for name in ("query", "key", "value")
        for rule in (
            Rule(f"{source}.{name}.{kernel}", (f"{target}/{name}/kernel",), HEADS),
            Rule(f"{source}.{name}.{bias}", (f"{target}/{name}/bias",), HEADS_BIAS),
        )
    ]
    return [
        *rules,
        Rule(f"{source}.{out}.{kernel}", (f"{target}/out/kernel",), out_kernel),
        Rule(f"{source}.{out}.{bias}", (f"{target}/out/bias",)),
    ]
