"""What training does with each leaf of a model, and what reads it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlt.model_io.build import abstract_params, example_inputs, forward, seen_inputs
from vlt.models.video_model import VideoModel
from vlt.pytrees.paths import by_path, leaves_read
from vlt.reporting.tables import Column, format_table
from vlt.training.rules import assign

NOBODY = "nothing"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf of a model's parameters.

    Attributes:
        path: '/'-joined. shape: shape of its array. rule: pattern of the rule that applies to it.
        lr: the schedule's highest rate times the rule's multiplier; 0 where it is frozen.
        weight_decay: multiplied by the leaf's rate, as in AdamW.
        method: the method that adds it; '' for a leaf of the model without methods.
        read_by: "video", "text" (questions and answers are texts) or "video, text"; "pairs" where
            only the scores of both read it; "training" where only the loss does; "nothing".
    """

    path: str
    shape: tuple[int, ...]
    rule: str
    lr: float
    weight_decay: float
    method: str
    read_by: str


def leaves_of(config: Mapping[str, Any], model: VideoModel) -> list[Leaf]:
    """Every leaf of a config's model, in the tree's order, from shapes alone.

    Raises:
        vlt.training.rules.RuleError: the rules do not fit the parameters.
    """
    params = abstract_params(model)
    rules = assign(params, config["rules"])
    owners, readers = owners_of(model, params), readers_of(model, params, config["model"])
    base = config["optimizer"]["lr"]
    return [
        Leaf(
            path,
            leaf.shape,
            rules[path].pattern,
            0.0 if rules[path].frozen else base * rules[path].lr,
            0.0 if rules[path].frozen else rules[path].weight_decay,
            owners.get(path, ""),
            readers[path],
        )
        for path, leaf in by_path(params).items()
    ]


def owners_of(model: VideoModel, params: Any) -> dict[str, str]:
    """{path: name of the method}, for leaves that the model lacks without that method."""
    owners: dict[str, str] = {}
    for method in model.methods:
        others = tuple(other for other in model.methods if other is not method)
        rest = by_path(abstract_params(model.clone(methods=others)))
        owners |= {path: method.name for path in by_path(params) if path not in rest}
    return owners


def readers_of(model: VideoModel, params: Any, section: Mapping[str, Any]) -> dict[str, str]:
    """{path: `Leaf.read_by`}, from the programs of `config.model`, without computations whose
    results are unused."""
    inputs = example_inputs(model.spec, section["frames"], section["context"])
    video = leaves_read(_inference(model, "encode_video"), params, *seen_inputs(model.spec, inputs))
    whole = leaves_read(_inference(model, "__call__"), params, *inputs)
    training = leaves_read(forward(model, "__call__", train=True), params, *inputs)
    text = whole - video
    if hasattr(model, "encode_text"):
        text = leaves_read(_inference(model, "encode_text"), params, *inputs[1:])
    scores = forward(model, "__call__")
    pairs = set()
    if model.scores_pairs:
        pairs = leaves_read(lambda params, *x: scores(params, *x)["scores"], params, *inputs)
    readers = {"video": video, "text": text, "pairs": pairs - video - text}
    return {path: _reader(path, readers, training) for path in by_path(params)}


def _reader(path: str, readers: Mapping[str, set[str]], training: set[str]) -> str:
    found = [name for name, paths in readers.items() if path in paths]
    return ", ".join(found) or ("training" if path in training else NOBODY)


def _inference(model: VideoModel, method: str) -> Callable[..., Any]:
    call = forward(model, method)
    return lambda params, *inputs: _result(call(params, *inputs))


def _result(found: Any) -> Any:
    """The outputs used after training: an encoder's embedding, without what only losses read."""
    if isinstance(found, tuple):
        return found[0]
    return {name: x for name, x in found.items() if not name.endswith("_out")}


def format_leaves(leaves: Sequence[Leaf]) -> str:
    """The leaves as a table."""
    columns = [
        Column(field.name, field.name.replace("_", " "), "g") for field in dataclasses.fields(Leaf)
    ]
    rows = [
        dataclasses.asdict(leaf)
        | {"shape": "x".join(map(str, leaf.shape)) or "scalar", "lr": leaf.lr or "frozen"}
        for leaf in leaves
    ]
    return format_table(rows, columns)
