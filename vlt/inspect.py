"""`vlt inspect --config=NAME[:variant] [--leaves] [--topology=v5e:4x4] [--json]`

Describes a config: its parameters, multiply-accumulates and tokens, from shapes alone, without
data, weights or a device. With --leaves, each leaf, its rule and what reads it
(`vlt.training.leaves`); with --topology, what a training step needs on that TPU slice
(`vlt.training.ahead`), with --traffic what it moves there, with --policies which rematerialisation
is best.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from vlt.command_line.inspect import parse
from vlt.configuration import keys_typed
from vlt.costs.flops import Counts, count, count_first
from vlt.model_io.build import abstract_params, example_inputs, forward, merged_form
from vlt.model_io.folder import ModelFolderError
from vlt.model_io.following import follow_checkpoint
from vlt.model_io.loading import build_for_shapes
from vlt.models.chat import ChatModel
from vlt.models.leaf_names import BLIP_NOT_WEIGHTS, EMBEDDINGS, NOT_VIDEO, NOT_WEIGHTS
from vlt.models.spec import ChatSpec
from vlt.models.video_model import VideoModel
from vlt.pytrees.paths import by_path
from vlt.pytrees.patterns import first_match
from vlt.reporting.compiled import format_compiled, format_traffic
from vlt.training.ahead import AheadError, compile_ahead, compile_policies
from vlt.training.leaves import format_leaves, leaves_of
from vlt.training.rules import partition

INSTRUCTION = 16  # tokens of the instruction that a Q-Former is priced with


def inspect_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Describes a config, by key.

    `video_gmacs` prices the model as published: in evaluation, with every token of every block,
    without a mask, and with everything merged into weights that can be. `video_gmacs_by_kind` is
    the same by kind of operation, and `video_multiply_adds` the same without normalisations.
    `video_gmacs_run` prices the forward pass that this config runs: with its savings and, if
    anything is trained, with the mask and the outputs of training. `trainable_params_published` is
    the count of CLIP4Clip and TempMe, which leaves out embeddings of patches, words, class and
    positions and the logit scale. If a method scores pairs, what it reads of a video is in the
    video's price, and `pair_gmacs` is the price of one video with one text.

    For a chat model, `video_gmacs` is the price of the vision tower with its branch, and
    `connector_gmacs` that of what follows it, with an instruction of 16 tokens if one is read. The
    language model reads `tokens_to_llm` tokens of a video, and `prefill_gmacs` is its price for a
    prompt of `prefill_tokens`: those, and the `prompt_tokens` of the config.

    Raises:
      ValueError: an unknown size, method or option.
      vlt.model_io.folder.ModelFolderError: a checkpoint that is half written, of another size,
        frame count or layers than the config's, or absent while the config names no size.
      vlt.training.rules.RuleError: rules that do not fit the parameters.
    """
    model = build_for_shapes(config["model"])
    params = abstract_params(model)
    counts = count_parameters(model, params, config["rules"])
    trained = bool(counts["trainable_params"])
    if isinstance(model, ChatModel):
        return counts | _of_chat(config["model"], model, params, trained)
    return counts | _operations(config["model"], model, params, trained)


def count_parameters(model: VideoModel, params: Any, rules: Any) -> dict[str, int]:
    """The keys of `inspect_config` that count leaves."""
    trained = partition(params, rules)[0]
    sizes = _sizes(trained)
    not_weights = NOT_WEIGHTS if model.spec.kind == "dual_encoder" else BLIP_NOT_WEIGHTS
    return {
        "total_params": sum(_sizes(params).values()),
        "trainable_params": sum(sizes.values()),
        "trainable_params_published": _sum_without(sizes, EMBEDDINGS),
        "trainable_params_video": _sum_without(sizes, NOT_VIDEO),
        "trainable_weights_video": _sum_without(
            _sizes(trained, dimensions=2), (*NOT_VIDEO, *not_weights)
        ),
    }


def _operations(
    config: Mapping[str, Any], model: VideoModel, params: Any, trained: bool
) -> dict[str, Any]:
    """The keys of `inspect_config` that count operations and tokens."""
    published = merged_form(model).clone(cls_only=False)
    inputs = example_inputs(model.spec, config["frames"], config["context"])
    video, *_ = inputs
    shapes = params if published.methods == model.methods else abstract_params(published)
    cost, out = count_first(_embed(published), shapes, video)
    whole = count(forward(published, "__call__"), shapes, *inputs)
    run = count(forward(model, "encode_video", train=trained), params, video)
    layers = range(model.spec.visual.layers)
    tokens = [list(out[f"block_{layer}"].x.shape[1:3]) for layer in layers]
    told = _told(cost, run, tokens) | {"text_gmacs": (whole.total - cost.total) / 1e9}
    if not model.scores_pairs:
        return told
    text = count(forward(published, "encode_text"), shapes, inputs[1]).total
    pair = whole.total - cost.total - text
    return told | {"text_gmacs": text / 1e9, "pair_gmacs": pair / 1e9}


def _embed(model: VideoModel) -> Callable[..., Any]:
    """(params, video) -> its embedding, with what a method that scores pairs reads of it, and all
    outputs."""

    def call(params: Any, video: jax.Array) -> Any:
        embedding, out = forward(model, "encode_video", capture=True)(params, video)
        return (embedding, model.video_parts(out)) if model.scores_pairs else embedding, out

    return call


def _told(cost: Counts, run: Counts, tokens: list[list[int]]) -> dict[str, Any]:
    """The keys of `inspect_config` that are about a vision tower."""
    return {
        "video_gmacs": cost.total / 1e9,
        "video_gmacs_by_kind": {k: v / 1e9 for k, v in dataclasses.asdict(cost).items()},
        "video_multiply_adds": cost.multiply_adds,
        "video_gmacs_run": run.total / 1e9,
        "tokens_per_layer": tokens,
        "output_tokens": tokens[-1][0] * tokens[-1][1],
    }


def _of_chat(
    config: Mapping[str, Any], model: ChatModel, params: Any, trained: bool
) -> dict[str, Any]:
    """Like `_operations`, for a chat model."""
    published, spec = merged_form(model), model.spec
    shapes = params if published.methods == model.methods else abstract_params(published)
    video, *_ = example_inputs(spec, config["frames"], config["context"])
    told = [jax.ShapeDtypeStruct((1, INSTRUCTION), jnp.int32)] * spec.instructed
    # The price as published includes what leaves the last block, though nothing reads it.
    cost, (tokens, out) = count_first(_look(published, capture=True), shapes, video, *told)
    run = count(_look(model, train=trained), params, video, *told)
    read, to_llm = out["video_tokens"], tokens.shape[1]
    told_each = [jax.ShapeDtypeStruct((len(read), INSTRUCTION), jnp.int32)] * spec.instructed
    connected = count(_connect(published), shapes, read, *told_each)
    prompt = to_llm + config.get("prompt_tokens", 0)
    lengths = {"text_gmacs": (config["context"], True), "prefill_gmacs": (prompt, False)}
    layers = range(spec.visual.layers)
    per_layer = [list(out[f"block_{layer}"].x.shape[1:3]) for layer in layers]
    return _told(cost, run, per_layer) | {
        "connector_gmacs": connected.total / 1e9,
        "tokens_to_llm": to_llm,
        "prefill_tokens": prompt,
        **{
            name: count(_read(published, whole), shapes, _embedded(spec, length)).total / 1e9
            for name, (length, whole) in lengths.items()
        },
    }


def _look(model: ChatModel, train: bool = False, capture: bool = False) -> Callable[..., Any]:
    """(params, video, instruction if one is read) -> what the vision tower computes, and what the
    language model reads of it, with all outputs."""

    def call(params: Any, *inputs: jax.Array) -> Any:
        tokens, out = forward(model, "encode_video", train, capture)(params, *inputs)
        last = out[f"block_{model.spec.visual.layers - 1}"].x if capture else ()
        return (out["video_tokens"], last), (tokens, out)

    return call


def _connect(model: ChatModel) -> Callable[..., Any]:
    """(params, tokens, instruction if one is read) -> what the language model reads."""
    return lambda params, *inputs: model.apply(
        {"params": params}, *inputs, method=lambda model, *inputs: model.connector(*inputs)
    )


def _read(model: ChatModel, whole: bool) -> Callable[..., Any]:
    """(params, embeddings [1, 1, n, d]) -> logits after the last one or, if `whole`, each one."""

    def call(params: Any, x: jax.Array) -> Any:
        places = jnp.arange(x.shape[2])[None]
        logits, _ = model.apply({"params": params}, x, places, whole=whole, method="decode")
        return logits

    return call


def _embedded(spec: ChatSpec, length: int) -> jax.ShapeDtypeStruct:
    """The shape of the embeddings of a prompt of `length` tokens."""
    return jax.ShapeDtypeStruct((1, 1, length, spec.text.width), jnp.float32)


def _sizes(tree: Any, dimensions: int = 0) -> dict[str, int]:
    """Elements of each leaf with at least `dimensions` dimensions, by '/'-joined path."""
    return {path: leaf.size for path, leaf in by_path(tree).items() if leaf.ndim >= dimensions}


def _sum_without(sizes: Mapping[str, int], patterns: Sequence[str]) -> int:
    return sum(size for path, size in sizes.items() if first_match(patterns, path) is None)


def format_report(report: Mapping[str, Any]) -> str:
    """The report as aligned text, layers with the same tokens on one line."""
    plain: dict[str, int | float] = {}
    for key, value in report.items():
        if key == "video_gmacs_by_kind":
            plain |= {f"  {kind}": gmacs for kind, gmacs in value.items() if gmacs}
        elif key != "tokens_per_layer":
            plain[key] = value
    lines = [
        f"{key:28}{value:>19,d}" if isinstance(value, int) else f"{key:28}{value:>19,.3f}"
        for key, value in plain.items()
    ]
    lines.append("tokens after each layer (groups x tokens of each):")
    numbered = enumerate(report["tokens_per_layer"])
    for (groups, tokens), same in groupby(numbered, key=lambda entry: entry[1]):
        layers = [layer for layer, _ in same]
        lines.append(f"  layers {layers[0]:>2} to {layers[-1]:>2}{groups:>9} x {tokens}")
    return "\n".join(lines)


def main(_: list[str]) -> None:
    """Prints the report of the config given on the command line."""
    # Shapes only: an accelerator, if there is one, is left to other programs.
    jax.config.update("jax_platforms", "cpu")
    options = flags.FLAGS
    try:
        config = follow_checkpoint(options.config, keys_typed(sys.argv))
        report = inspect_config(config)
        text = format_report(report)
        if options.leaves:
            leaves = leaves_of(config, build_for_shapes(config.model))
            report["leaves"] = [dataclasses.asdict(leaf) for leaf in leaves]
            text = f"{format_leaves(leaves)}\n\n{text}"
        if options.topology:
            print(f"{options.topology}: this takes minutes", file=sys.stderr)
            compile_step = compile_policies if options.policies else compile_ahead
            compiled = compile_step(config, options.topology, options.batch)
            report |= compiled
            text += f"\n\n{format_compiled(compiled)}"
            if options.traffic and compiled["fits"]:
                text += f"\n\n{format_traffic(compiled)}"
    except (AheadError, ModelFolderError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(json.dumps(report) if options.json else text)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
