"""Whether there is memory for a chat model, before any of it is read."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from vlt.models.narrow import WEIGHTS, narrowed_shapes
from vlt.models.spec import ChatSpec
from vlt.models.video_model import VideoModel
from vlt.pytrees.paths import by_path
from vlt.runtime import memory
from vlt.storage.trees import load_shapes

PIECES = 2**29  # bytes of leaves that are read while others are held
SPARE = 2**28  # bytes for the interpreter, compiled programs and small things


@dataclasses.dataclass(frozen=True)
class Needs:
    """Bytes that a chat model needs to answer about one video.

    weights: as they are held. cache: keys and values of a dialogue as long as the context. video:
    the frames in the vision tower's largest block.
    """

    weights: int
    cache: int
    video: int

    @property
    def total(self) -> int:
        """The bytes needed in all, also while weights are being read."""
        return self.weights + max(self.cache + self.video, PIECES) + SPARE


def needs(
    stored: Mapping[str, Any], spec: ChatSpec, frames: int, dtype: Any, weights: str
) -> Needs:
    """The needs of a model with `stored` shapes by path, for a video of `frames` frames.

    dtype: dtype of activations. weights: one of `WEIGHTS` of vlt/models/narrow.py.
    """
    held = narrowed_shapes(stored, weights).values()
    size, text, visual = jnp.dtype(dtype).itemsize, spec.text, spec.visual
    tokens = visual.patches + 1
    # Hidden units before and after their activation; states, normed ones, queries, keys, values.
    block = tokens * (2 * visual.mlp_width + 6 * visual.width) * size
    block += 2 * visual.heads * tokens**2 * 4  # logits and weights
    return Needs(
        sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in held),
        2 * text.layers * text.context * text.width * size,
        frames * (block + 3 * visual.image_size**2 * 5),
    )


def check_memory(folder: Path, module: VideoModel, frames: int) -> None:
    """Raises ValueError if a chat model's folder needs more memory than there is.

    The message says how much it needs, and for which `weights` or how many frames there is room.
    """
    spec, there = module.spec, _there()
    if not isinstance(spec, ChatSpec) or there is None:
        return
    stored = by_path(load_shapes(folder / "weights"))

    def total(weights: str, frames: int) -> int:
        return needs(stored, spec, frames, module.dtype, weights).total

    found = needs(stored, spec, frames, module.dtype, module.weights)
    if found.total <= there:
        return
    fits = list(_fitting(total, there, module.weights, frames))
    fits = fits or [f"nothing: weights='int8' and one frame need {_gigabytes(total('int8', 1))}"]
    told = (
        f"weights {_gigabytes(found.weights)}, keys and values of {spec.text.context} tokens "
        f"{_gigabytes(found.cache)}, {frames} frames {_gigabytes(found.video)}"
    )
    raise ValueError(
        f"{folder} needs {_gigabytes(found.total)} of memory ({told}), and {_gigabytes(there)} are "
        f"there; what fits: {' or '.join(fits)}"
    )


def _there() -> int | None:
    """Free bytes of host or accelerator, whichever has less, since both hold the weights."""
    known = [free for free in (memory.free_on_host(), memory.free_on_device()) if free is not None]
    return min(known, default=None)


def _fitting(
    total: Callable[[str, int], int], there: int, weights: str, frames: int
) -> Iterator[str]:
    """Yields what there is room for: the most frames with each form of the weights."""
    for form in WEIGHTS[WEIGHTS.index(weights) :]:
        most = max((n for n in range(1, frames + 1) if total(form, n) <= there), default=0)
        if most:
            changed = [f"weights={form!r}"] * (form != weights)
            changed += [f"frames={most}"] * (most < frames)
            yield f"{' and '.join(changed)} ({_gigabytes(total(form, most))})"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
