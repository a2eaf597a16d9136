"""From a config's `model` section to a module and its parameters' shapes."""

import dataclasses
import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import vlt.adapters
import vlt.merging
from vlt.models.answerer import Answerer
from vlt.models.captioner import Captioner
from vlt.models.dual_encoder import DualEncoder
from vlt.models.points import Method
from vlt.models.retriever import Retriever
from vlt.models.spec import SIZES, Spec
from vlt.models.video_model import ANY_FRAMES, CLIP_MEAN, CLIP_STD, VideoModel

MODELS: dict[str, type[VideoModel]] = {  # by kind of spec
    "dual_encoder": DualEncoder,
    "captioner": Captioner,
    "retriever": Retriever,
    "answerer": Answerer,
}
MOVING_POINTS = ("before_attention", "between", "after_block")  # where tokens merge or go
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_methods(options: Mapping[str, Mapping[str, Any]]) -> tuple[Method, ...]:
    """Methods from {name: options}, in order; a name is a file of vlt/adapters or vlt/merging.

    Raises:
        ValueError: unknown method or option, with the nearest names.
    """
    return tuple(_build_method(name, dict(fields)) for name, fields in options.items())


def _build_method(name: str, options: dict[str, Any]) -> Method:
    for package in (vlt.adapters, vlt.merging):
        if importlib.util.find_spec(f"{package.__name__}.{name}") is not None:
            module = importlib.import_module(f"{package.__name__}.{name}")
            if hasattr(module, "METHOD"):
                return _with_options(name, module.METHOD, options)
    names = [
        info.name
        for package in (vlt.adapters, vlt.merging)
        for info in pkgutil.iter_modules(package.__path__)
    ]
    raise ValueError(f"unknown method {name!r}{_near(name, names)}")


def _with_options(name: str, method: type[Method], options: dict[str, Any]) -> Method:
    fields = [field.name for field in dataclasses.fields(method)]
    for key in options:
        if key not in fields:
            raise ValueError(f"method {name!r} has no option {key!r}{_near(key, fields)}")
    # JSON has no tuples, and a method must be hashable.
    return method(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def _near(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(names))}"


def merges_tokens(model: VideoModel) -> bool:
    """Whether any of the model's methods merges or removes tokens."""
    return any(is_merging(method) for method in model.methods)


def is_merging(method: Method) -> bool:
    """Whether the method is one of vlt/merging that moves tokens: all but token mixing."""
    kind = type(method)
    moves = any(getattr(kind, name) is not getattr(Method, name) for name in MOVING_POINTS)
    return moves and kind.__module__.startswith(f"{vlt.merging.__name__}.")


def refuse_merging(name: str, methods: Iterable[Method]) -> None:
    """Raises ValueError where one of `methods` moves patches from their places in a frame."""
    for method in methods:
        if is_merging(method):
            raise ValueError(
                f"{name} finds patches by their places in each frame, which "
                f"{type(method).__name__} changes; take one of them out of model.methods"
            )


def method_options(
    config: Mapping[str, Any], stored: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """{name: options} of a model: those `stored` in its folder, then those the config adds.

    Where both name a method, the options that the config gives go first.
    """
    options = {name: dict(fields) for name, fields in stored.items()}
    for name in config["methods"]:
        options[name] = options.get(name, {}) | dict(config.get(name, {}))
    return options


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
            folder; else `config.size` and CLIP's. What the config says of a method goes first.

    Raises:
        ValueError: unknown size, method, option or dtype, or a method that does not fit the rest.
    """
    if spec is None:
        if config["size"] not in SIZES:
            raise ValueError(f"unknown size {config['size']!r}{_near(config['size'], list(SIZES))}")
        spec = SIZES[config["size"]]
    if config["dtype"] not in DTYPES:
        raise ValueError(f"dtype {config['dtype']!r}: one of {', '.join(DTYPES)}")
    pixels = preprocessing or {"mean": CLIP_MEAN, "std": CLIP_STD}
    return make_model(
        spec,
        method_options(config, stored or {}),
        frames=config["frames"],
        cls_only=config["cls_only"],
        frame_norm=config["frame_norm"],
        mean=tuple(pixels["mean"]),
        std=tuple(pixels["std"]),
        remat=config["remat"],
        drop_path=config["drop_path"],
        dtype=DTYPES[config["dtype"]],
    )


def make_model(
    spec: Spec, methods: Mapping[str, Mapping[str, Any]], frames: int = ANY_FRAMES, **fields: Any
) -> VideoModel:
    """The module of a spec's kind. fields: of `VideoModel`.

    Raises:
        ValueError: unknown method or option, or options that do not fit the sizes or the frames;
            a method that needs frames apart in a tower that holds them together.
    """
    model = MODELS[spec.kind](spec, build_methods(methods), frames, **fields)
    for name, method in zip(methods, model.methods, strict=True):
        if spec.visual.temporal_frames and not method.joint:
            raise ValueError(
                f"{name} needs every frame in a group of its own, and this vision tower holds the "
                f"patches of all in one (temporal_frames={spec.visual.temporal_frames}); take it "
                "out of model.methods"
            )
        method.check(spec, frames)
    return model


def merged_form(model: VideoModel) -> VideoModel:
    """The module that is deployed: methods whose leaves go into converted weights are gone."""
    return model.clone(methods=tuple(m for m in model.methods if not m.mergeable))


def example_inputs(
    spec: Spec, frames: int, context: int, batch: int = 1
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of a batch: uint8 video [b, t, H, W, 3] and ids [b, l]; of an answerer the question's
    and the answer's."""
    side = spec.visual.image_size
    video = jax.ShapeDtypeStruct((batch, frames, side, side, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct((batch, context), jnp.int32)
    return (video, ids, ids) if spec.kind == "answerer" else (video, ids)


def init_params(model: VideoModel, rng: jax.Array) -> dict[str, Any]:
    """Every leaf that training needs, freshly initialised.

    Leaves that start as copies of converted ones are copied by `Method.initialise` once those are
    loaded.
    """
    # Values of the inputs do not matter: only shapes reach the initialisers.
    inputs = [jnp.zeros(x.shape, x.dtype) for x in example_inputs(model.spec, model.frames, 4)]
    rngs = {"params": rng, "mask": rng, "dropout": rng}
    return model.init(rngs, *inputs, train=True)["params"]


def abstract_params(model: VideoModel) -> dict[str, Any]:
    """Shapes and dtypes of all leaves, at no cost."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
