"""From a config's `model` section to a module and its parameters' shapes."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import traverse_util

from vlt.data.text.instructions import INSTRUCTION
from vlt.methods import build_methods
from vlt.models.answerer import Answerer
from vlt.models.captioner import Captioner
from vlt.models.chat import ChatModel
from vlt.models.compatibility import check_methods
from vlt.models.dual_encoder import DualEncoder
from vlt.models.fused import IMPLEMENTATIONS
from vlt.models.leaves import shapes_alone
from vlt.models.narrow import WEIGHTS, narrowed_shapes
from vlt.models.platforms import traced_for
from vlt.models.remat import POLICIES
from vlt.models.retriever import Retriever
from vlt.models.sizes import SIZES
from vlt.models.spec import ChatSpec, EncoderSpec, Spec
from vlt.models.spec_reading import MOST_TOKENS, with_video
from vlt.models.video_encoder import VideoEncoder
from vlt.models.video_model import ANY_FRAMES, CLIP_MEAN, CLIP_STD, VideoModel
from vlt.pytrees.fields import near, shown
from vlt.pytrees.paths import by_path

MODELS: dict[str, type[VideoModel]] = {  # by kind of spec
    "dual_encoder": DualEncoder,
    "captioner": Captioner,
    "retriever": Retriever,
    "answerer": Answerer,
    "chat": ChatModel,
    "encoder": VideoEncoder,
}
Model = TypeVar("Model", bound=VideoModel)
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
AUTO = "auto"


def merges_tokens(model: VideoModel) -> bool:
    """Whether any of the model's methods merges or removes tokens."""
    return any(method.merges for method in model.methods)


def method_options(
    config: Mapping[str, Any], stored: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """{name: options} of a model: those `stored` in its folder, then those the config adds.

    If both name a method, the options that the config gives take precedence.

    Raises:
        ValueError: `config.methods` are not names, or name a method twice.
    """
    _check_names(config["methods"])
    options = {name: dict(fields) for name, fields in stored.items()}
    for name in config["methods"]:
        section = config.get(name.rpartition(".")[2], {})
        options[name] = options.get(name, {}) | dict(section)
    return options


def _check_names(methods: Any) -> None:
    if not isinstance(methods, (list, tuple)) or not all(isinstance(m, str) for m in methods):
        raise ValueError(
            f"model.methods must be names of methods, such as ('lora', 'tempme'), got "
            f"{shown(methods)}"
        )
    if twice := {name for name in methods if methods.count(name) > 1}:
        raise ValueError(f"model.methods={methods!r} names {', '.join(sorted(twice))} twice")


def build_model(
    config: Mapping[str, Any],
    spec: Spec | None = None,
    stored: Mapping[str, Mapping[str, Any]] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> VideoModel:
    """The module of a config's `model` section.

    Args:
        config: `config.model`.
        spec, stored, preprocessing: sizes, methods with options, and pixel statistics of a model
            folder; by default `config.size`, none, and CLIP's. What the config says of a method
            takes precedence.

    Raises:
        ValueError: unknown size, method, option or dtype, or a method that does not fit the rest.
    """
    if spec is None:
        if config["size"] not in SIZES:
            raise ValueError(f"unknown size {config['size']!r}{near(config['size'], SIZES)}")
        spec = with_video(SIZES[config["size"]], config.get("video", {}), config["frames"])
    known = {"dtype": (*DTYPES, AUTO), "attention": IMPLEMENTATIONS, "remat": tuple(POLICIES)}
    for name, values in known.items():
        value = config.get(name, values[0])
        if value not in values:
            raise ValueError(f"unknown model.{name}: {value!r}{near(value, values)}")
    if not 0 <= config["drop_path"] < 1:
        raise ValueError(f"model.drop_path must be >= 0 and < 1, got {config['drop_path']}")
    _check_weights(config.get("weights", ""), spec)
    pixels = preprocessing or {"mean": CLIP_MEAN, "std": CLIP_STD}
    return make_model(
        spec,
        method_options(config, stored or {}),
        frames=config["frames"],
        cls_only=config["cls_only"],
        frame_norm=config["frame_norm"],
        renormalise=config.get("renormalise", True),
        mean=tuple(pixels["mean"]),
        std=tuple(pixels["std"]),
        remat=config["remat"],
        drop_path=config["drop_path"],
        dtype=_dtype(config["dtype"]),
        weights=config.get("weights", ""),
        attention=config.get("attention", AUTO),
    )


def _dtype(name: str) -> Any:
    if name == AUTO:
        name = "float32" if traced_for() == "cpu" else "bfloat16"
    return DTYPES[name]


def _check_weights(weights: str, spec: Spec) -> None:
    if weights not in WEIGHTS:
        raise ValueError(f"unknown model.weights: {weights!r}{near(weights, WEIGHTS)}")
    if weights and not isinstance(spec, ChatSpec):
        raise ValueError(f"model.weights={weights!r} is for chat models; this is a {spec.kind}")


def make_model(
    spec: Spec, methods: Mapping[str, Mapping[str, Any]], frames: int = ANY_FRAMES, **fields: Any
) -> VideoModel:
    """Builds the module for a spec's kind. fields: further fields of `VideoModel`.

    Raises:
        ValueError: unknown method or option, options that do not fit the sizes or the frames, or
            methods that do not fit each other or the kind of model.
    """
    if not 1 <= frames <= MOST_TOKENS // spec.visual.patches:
        raise ValueError(
            f"model.frames must be between 1 and {MOST_TOKENS // spec.visual.patches} for "
            f"{spec.visual.patches} patches a frame, got {frames}"
        )
    model = MODELS[spec.kind](spec, build_methods(methods), frames, **fields)
    check_methods(model.methods, spec)
    for method in model.methods:
        method.check(spec, frames)
    return model


def check_frames(model: VideoModel, params: Mapping[str, Any], frames: int) -> None:
    """Raises ValueError if the model's methods or their leaves are for other numbers of frames."""
    known = f"; this model was trained on {model.frames} frames: sample that many"
    try:
        for method in model.methods:
            method.check(model.spec, frames)
        wanted = abstract_params(model.clone(frames=frames))
    except ValueError as error:
        raise ValueError(f"{error}{known}") from error
    have = by_path(params)
    for path, leaf in by_path(wanted).items():
        if path in have and have[path].shape != leaf.shape:
            raise ValueError(f"{frames} frames, but {path} is for another number{known}")


def merged_form(model: Model) -> Model:
    """The module that is deployed: with methods folded, and without those whose leaves are merged
    into converted weights."""
    folded = (method.folded for method in model.methods)
    return model.clone(methods=tuple(method for method in folded if method is not None))


def input_names(spec: Spec) -> tuple[str, ...]:
    """The inputs that a model is called with, in order, by their names in batches."""
    if isinstance(spec, ChatSpec):
        return ("video", "text", "instruction") if spec.instructed else ("video", "text")
    if isinstance(spec, EncoderSpec):
        return ("video",)
    return ("video", "question", "answer") if spec.kind == "answerer" else ("video", "text")


def example_inputs(
    spec: Spec, frames: int, context: int, batch: int = 1
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of `input_names`: uint8 video [b, t, H, W, 3] and ids [b, l]."""
    side = spec.visual.image_size
    examples = {"video": jax.ShapeDtypeStruct((batch, frames, side, side, 3), jnp.uint8)}
    if isinstance(spec, ChatSpec) and spec.qformer is not None:
        length = instruction_length(spec, context)
        examples["instruction"] = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    ids = jax.ShapeDtypeStruct((batch, context), jnp.int32)
    return tuple(examples.get(name, ids) for name in input_names(spec))


def instruction_length(spec: ChatSpec, context: int) -> int:
    """Number of tokens of a question that a Q-Former reads beside prompts of `context` tokens."""
    longest = 0 if spec.qformer is None else spec.qformer.context
    return min(context, longest, INSTRUCTION)


def seen_inputs(spec: Spec, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Those of `inputs`, in the order of `input_names`, that `encode_video` takes."""
    return (inputs[0], *(inputs[2:] if isinstance(spec, ChatSpec) else ()))


def forward(
    model: VideoModel, method: str, train: bool = False, capture: bool = False
) -> Callable[..., Any]:
    """(params, *inputs) -> what the model's `method` returns, to be traced."""

    def call(params: Any, *inputs: jax.Array) -> Any:
        rngs = {"mask": jax.random.key(0), "dropout": jax.random.key(0)} if train else None
        return model.apply(
            {"params": params}, *inputs, train=train, capture=capture, method=method, rngs=rngs
        )

    return call


def init_params(model: VideoModel, rng: jax.Array) -> dict[str, Any]:
    """Every leaf that training needs, freshly initialised.

    Leaves that start as copies of converted ones are copied by `Method.init_from_backbone` once
    those are loaded.
    """
    # Values of the inputs do not matter: only shapes reach the initialisers.
    inputs = [jnp.zeros(x.shape, x.dtype) for x in example_inputs(model.spec, model.frames, 4)]
    rngs = {"params": rng, "mask": rng, "dropout": rng}
    return model.init(rngs, *inputs, train=True)["params"]


def abstract_params(model: VideoModel) -> dict[str, Any]:
    """Shapes and dtypes of all leaves, at no cost; found only once for each model."""
    try:
        hash(model)
    except TypeError:  # an outside method's option cannot be hashed
        return _shapes(model)
    return jax.tree.map(lambda leaf: leaf, _remembered_shapes(model))


def _shapes(model: VideoModel) -> dict[str, Any]:
    with shapes_alone():
        shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    if not model.weights:
        return shapes
    return traverse_util.unflatten_dict(narrowed_shapes(by_path(shapes), model.weights), sep="/")


_remembered_shapes = functools.lru_cache(maxsize=64)(_shapes)
