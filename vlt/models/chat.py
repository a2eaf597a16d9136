"""Conversation about videos: a vision tower, a connector, and a language model that reads both.

LLaVA (arXiv:2304.08485), MiniGPT-4 (arXiv:2304.10592), InstructBLIP (arXiv:2305.06500), and the
three with BT-Adapter (Liu et al., Section 3.4).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vlt.models.connector import Connector
from vlt.models.llama import Llama
from vlt.models.spec import POOLED_FRAMES, ChatSpec
from vlt.models.tokens import KeysValues
from vlt.models.video_model import VideoModel


class ChatModel(VideoModel):
    """Tokens of a video among the words of a prompt, and the words that follow.

    A prompt has one negative id for each token of its videos; the tokens fill these slots in
    order.
    """

    spec: ChatSpec

    def setup(self) -> None:
        spec = self.spec
        tower = self.vision_tower(tokens_read=True)
        self.visual = tower.clone(read=spec.read, feature_blocks=spec.feature_blocks)
        self.connector = Connector(self.spec, self.dtype)
        self.text = Llama(self.spec.text, self.methods, self.remat, self.dtype)

    def encode_video(  # type: ignore[override]
        self,
        video: jax.Array,
        instruction: jax.Array | None = None,
        train: bool = False,
        capture: bool = False,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Videos -> the k tokens of each that the language model reads [b, k, d], and `out`.

        Args:
            video: uint8 RGB or normalised float [b, t, H, W, 3], or features [b, t, n, d]
                cached after the first `spec.feature_blocks` blocks of the tower.
            instruction: ids [b, l] that the Q-Former of an InstructBLIP reads, 0 for padding.

        `out["video_tokens"]` holds the tokens that the connector read, [b, m, d], or [b * t, m, d]
        if a Q-Former reads each frame by itself; `out["queries"]` holds a Q-Former's output.
        """
        states, out = self.visual(self.pixels(video), train, capture)
        found = out.pop("language_tokens", None)
        found = self._video_tokens(states) if found is None else self._placed(found)
        if self.spec.qformer is None:
            found = found.reshape(len(found), -1, found.shape[-1])
        elif found.ndim == 4:  # each frame is read by itself
            if instruction is not None:
                instruction = jnp.repeat(instruction, found.shape[1], axis=0)
            found = found.reshape(-1, *found.shape[2:])
        tokens, extra = self.connector(found, instruction, train)
        tokens = tokens.reshape(len(video), -1, tokens.shape[-1])
        return tokens, out | {"video_tokens": found} | extra

    def _video_tokens(self, states: jax.Array) -> jax.Array:
        """States [b, t, cls + n, d] -> [b, m, d] of the video, or [b, t, m, d] of its frames."""
        states = self._placed(states)
        if self.spec.tokens == "frames":
            return states
        if self.spec.tokens == "mean":
            return states.mean(1)
        if (frames := states.shape[1]) > POOLED_FRAMES:
            raise ValueError(f"{frames} frames; spec.tokens='st_pool' takes {POOLED_FRAMES}")
        over_space = jnp.pad(states.mean(2), ((0, 0), (0, POOLED_FRAMES - frames), (0, 0)))
        return jnp.concatenate([over_space, states.mean(1)], axis=1)

    def _placed(self, tokens: jax.Array) -> jax.Array:
        """Tokens [..., cls + n, d] with the class token where `spec.cls` says."""
        if not self.spec.visual.cls or self.spec.cls == "first":
            return tokens
        cls, patches = tokens[..., :1, :], tokens[..., 1:, :]
        return patches if self.spec.cls == "none" else jnp.concatenate([patches, cls], axis=-2)

    def slots(self, frames: int) -> int:
        """Number of tokens that the language model reads for a video of `frames` frames."""
        side, ids = self.spec.visual.image_size, jnp.zeros((1, 1), jnp.int32)
        video = jax.ShapeDtypeStruct((1, frames, side, side, 3), jnp.uint8)
        given = (video, ids) if self.spec.instructed else (video,)
        call = functools.partial(self.init_with_output, method="encode_video")
        key = {name: jax.random.key(0) for name in ("params", "dropout")}
        return jax.eval_shape(call, key, *given)[0][0].shape[1]

    def embed(self, ids: jax.Array, tokens: jax.Array | None = None) -> jax.Array:
        """ids [b, l] -> [b, l, d], with `tokens` [b, k, d] of the videos in the slots, ids below 0.

        Tokens of a prompt's videos follow one another. The caller must provide as many slots as
        tokens: the ids' values are not known here.
        """
        words = self.text.embed(jnp.maximum(ids, 0))
        if tokens is None:
            return words
        slots = ids < 0
        order = jnp.clip(slots.cumsum(1) - 1, 0, tokens.shape[1] - 1)
        placed = jnp.take_along_axis(tokens.astype(words.dtype), order[..., None], axis=1)
        return jnp.where(slots[..., None], placed, words)

    def decode(
        self,
        x: jax.Array,
        places: jax.Array,
        valid: jax.Array | None = None,
        cache: list[KeysValues] | None = None,
        index: jax.Array | int | None = None,
        remember: bool = False,
        whole: bool = False,
    ) -> tuple[jax.Array, list[KeysValues]]:
        """Embeddings x [b, g, l, d] at places [b, l] -> float32 logits [b, g, v] for what
        follows the last, or [b, g, l, v] for what follows each with `whole`; and the cache.

        The other arguments are those of `Llama`.
        """
        states, cache = self.text(x, places, valid, cache, index, remember)
        return self.text.logits(states if whole else states[:, :, -1]), cache

    def __call__(
        self,
        video: jax.Array,
        ids: jax.Array,
        instruction: jax.Array | None = None,
        train: bool = False,
        capture: bool = False,
    ) -> dict[str, Any]:
        """ids [b, l] of whole conversations, padded at the end -> `logits` [b, l, v] for what
        follows each token."""
        tokens, visual = self.encode_video(video, instruction, train, capture)
        places = jnp.arange(ids.shape[1])[None]
        states, _ = self.text(self.embed(ids, tokens)[:, None], places, train=train)
        return {
            "logits": self.text.logits(states)[:, 0],
            "tokens": tokens,
            "visual_out": visual,
        }
