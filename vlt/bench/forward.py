"""The vision tower's forward pass as it is deployed, beside other configs and a torch peer."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlt.bench.slicing import sliced
from vlt.bench.timing import ROUNDS, matmul_rate, ratio, turns
from vlt.costs.flops import Counts, count
from vlt.costs.memory import memory
from vlt.data.text.instructions import STEP
from vlt.model_io.build import (
    build_model,
    example_inputs,
    init_params,
    merged_form,
    merges_tokens,
    seen_inputs,
)
from vlt.model_io.loading import build_for_shapes
from vlt.models.dual_encoder import DualEncoder
from vlt.models.video_model import VideoModel

Configs = Mapping[str, Mapping[str, Any]]


class Forward(NamedTuple):
    """A compiled vision tower with random weights, ready to be called."""

    model: VideoModel
    params: Any
    compiled: Any
    counts: Counts
    run: Callable[[], jax.Array]


def bench_forward(
    config: Mapping[str, Any],
    batch: int,
    peer: str = "",
    cls_only: bool | None = None,
    against: Configs | None = None,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """Times the vision tower on `batch` videos at random weights, LoRA and the like merged.

    Args:
        config: `config.model`. against: other such configs, by name, all timed in turn.
        peer: '' or 'torch', transformers' CLIP in inference mode with scaled-dot-product attention,
            which merges tokens where the config does; for ViCLIP, `vlt.bench.torch_viclip`.
        cls_only: replaces that of `config` and `against`, unless None.

    Returns:
        Among others `merging_share`, if the config merges: the share of its time that is saved
        when slicing gives the same token counts; and `against`: {name: its time and operations, how
        many times as fast the config is, and how many times fewer operations it needs}.
    """
    main = prepare(deployed(config, cls_only), batch)
    others = {k: prepare(deployed(c, cls_only), batch) for k, c in (against or {}).items()}
    functions: list[Callable[[], Any]] = [main.run, *(other.run for other in others.values())]
    if merges_tokens(main.model):
        functions.append(prepare(sliced(main.model), batch, main.params).run)
    if peer:
        video = random_video(main.model, batch)
        encode = _torch_encoder(main.model, main.params)
        difference = float(np.abs(encode(video) - np.asarray(main.run())).max())
        functions.append(lambda: encode(video))
    times = turns(*functions, rounds=rounds)
    result = _figures(main, batch, float(np.median(times[:, 0])))
    if merges_tokens(main.model):
        result["merging_share"] = 1 - 1 / ratio(times, 0, 1 + len(others))
    if peer:
        result |= {
            "peer_s": float(np.median(times[:, -1])),
            "times_as_fast": ratio(times, -1, 0),
            "peer_difference": difference,
        }
    if others:
        result["against"] = {
            name: {
                "forward_s": float(np.median(times[:, i])),
                "gmacs": other.counts.multiply_adds / batch / 1e9,
                "times_as_fast": ratio(times, i, 0),
                "times_the_operations": other.counts.multiply_adds / main.counts.multiply_adds,
            }
            for i, (name, other) in enumerate(others.items(), start=1)
        }
    return result


def _torch_encoder(model: VideoModel, params: Any) -> Callable[[jax.Array], np.ndarray]:
    if not isinstance(model, DualEncoder):
        raise ValueError(f"--peer: there is no peer for a {model.spec.kind}")
    if model.spec.visual.pool != "cls":
        raise ValueError(
            f"--peer: there is no peer for a tower that pools patches ({model.spec.visual.pool})"
        )
    # torch is an extra.
    if model.spec.visual.temporal_frames:
        from vlt.bench.torch_viclip import viclip_video_encoder

        return viclip_video_encoder(model, params)
    from vlt.bench.torch_clip import clip_video_encoder

    return clip_video_encoder(model, params)


def _figures(main: Forward, batch: int, forward_s: float) -> dict[str, Any]:
    visual = main.model.spec.visual
    rate = 2 * main.counts.multiply_adds / forward_s
    tokens = batch * main.model.frames * (visual.cls + visual.patches)
    floor = matmul_rate(tokens, visual.width)
    return {
        "videos_per_s": batch / forward_s,
        "forward_s": forward_s,
        "gmacs": main.counts.multiply_adds / batch / 1e9,
        "gflops": rate / 1e9,
        "matmul_gflops": floor / 1e9,
        "of_matmul_rate": rate / floor,
        "peak_bytes": memory(main.compiled)["peak_bytes"],
    }


def videos_per_second(config: Mapping[str, Any], batch: int) -> float:
    """Videos a second of the vision tower as it is deployed, at random weights."""
    return batch / float(np.median(turns(prepare(deployed(config), batch).run)))


def deployed(config: Mapping[str, Any], cls_only: bool | None = None) -> VideoModel:
    """The module of `config.model`, without the methods that merge into its weights."""
    # Without a size, that of the checkpoint.
    built = build_model(config) if config["size"] else build_for_shapes(config)
    model = merged_form(built)
    return model if cls_only is None else model.clone(cls_only=cls_only)


def prepare(model: VideoModel, batch: int, params: Any = None) -> Forward:
    """Compiles the vision tower, with random weights if none are given."""
    if params is None:
        params = jax.jit(lambda: without_text(init_params(model, jax.random.key(0))))()
    inputs = (random_video(model, batch), *_instruction(model, batch))

    def encode(leaves: Any, *inputs: jax.Array) -> jax.Array:
        return model.apply({"params": leaves}, *inputs, method="encode_video")[0]

    compiled = jax.jit(encode).lower(params, *inputs).compile()
    counts = count(encode, params, *inputs)
    return Forward(model, params, compiled, counts, lambda: compiled(params, *inputs))


def _instruction(model: VideoModel, batch: int) -> list[jax.Array]:
    """A question of the shortest length compiled for, if a Q-Former reads questions; else none."""
    inputs = example_inputs(model.spec, model.frames, STEP, batch)
    return [jnp.ones(x.shape, x.dtype) for x in seen_inputs(model.spec, inputs)[1:]]


def without_text(params: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves that encode videos."""
    return {name: leaves for name, leaves in params.items() if name != "text"}


def random_video(model: VideoModel, batch: int) -> jax.Array:
    """uint8 noise [b, t, H, W, 3]."""
    video, *_ = example_inputs(model.spec, model.frames, 1, batch)
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, video.shape, dtype=np.uint8))
