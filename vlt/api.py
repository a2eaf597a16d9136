"""`vlt.load(path)`: a model folder as an object that encodes videos and texts."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.data.tokenize import Tokenizer
from vlt.loading import load_folder
from vlt.model_folder import ModelConfig
from vlt.models.dual_encoder import DualEncoder


class VideoTextModel:
    """A dual encoder with its parameters and tokenizer.

    Attributes:
        module: the Flax module; `module.apply({"params": params}, ...)` for everything else.
        params: its parameters.
        config: sizes, methods, preprocessing, frames.
    """

    def __init__(
        self, module: DualEncoder, params: dict[str, Any], config: ModelConfig, tokenizer: Tokenizer
    ):
        self.module, self.config = module, config
        self.params = jax.device_put(params)
        self._tokenizer = tokenizer

    def encode_video(self, frames: Any, normalize: bool = True) -> jax.Array:
        """uint8 RGB, or already normalised float32, [b, t, H, W, 3] -> [b, e].

        Raises:
            ValueError: frames of another size than the model's, or of another type.
        """
        if frames.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"frames are {frames.dtype}; uint8 RGB or normalised float32 is needed"
            )
        return self._encode(jnp.asarray(frames), "video", normalize)

    def encode_text(self, texts: Sequence[str] | Any, normalize: bool = True) -> jax.Array:
        """A text, texts, or token ids int32 [b, l] -> [b, e]."""
        if isinstance(texts, str):
            texts = [texts]
        ids = self._tokenizer(texts) if isinstance(texts, Sequence) else texts
        return self._encode(jnp.asarray(ids), "text", normalize)

    def _encode(self, inputs: jax.Array, side: str, normalize: bool) -> jax.Array:
        unit, out = self._apply(f"encode_{side}")(self.params, inputs)
        return unit if normalize else out[f"{side}_features"]

    @functools.cache  # noqa: B019  one program for each encoder, as long as the model lives
    def _apply(self, method: str) -> Any:
        return jax.jit(lambda params, x: self.module.apply({"params": params}, x, method=method))


def load(path: str | Path) -> VideoTextModel:
    """Loads a converted, exported or packaged model ("tiny_clip").

    Raises:
        ModelFolderError: absent, half written, or not what its config.json says.
    """
    loaded = load_folder(str(path))
    tokenizer = Tokenizer.load(loaded.tokenizer, loaded.config.spec.text.context)
    return VideoTextModel(loaded.module, loaded.params, loaded.config, tokenizer)
