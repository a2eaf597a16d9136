"""`vlt.load(path)`: a model folder as an object that encodes videos and texts, or captions."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.data.tokenize import Tokenizer
from vlt.loading import LoadedModel, load_folder
from vlt.model_folder import ModelConfig
from vlt.models.generation import Search, generate
from vlt.models.video_model import VideoModel


class Model:
    """A model with its parameters and tokenizer.

    Attributes:
        module: the Flax module; `module.apply({"params": params}, ...)` for everything else.
        params: its parameters.
        config: sizes, methods, preprocessing, frames.
    """

    def __init__(
        self, module: VideoModel, params: dict[str, Any], config: ModelConfig, tokenizer: Tokenizer
    ):
        self.module, self.config = module, config
        self.params = jax.device_put(params)
        self._tokenizer = tokenizer

    def _encode_video(self, frames: Any) -> tuple[jax.Array, dict[str, Any]]:
        if frames.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"frames are {frames.dtype}; uint8 RGB or normalised float32 is needed"
            )
        return self._apply("encode_video", jnp.asarray(frames))

    def _apply(self, method: str, inputs: jax.Array) -> Any:
        return self._program(method)(self.params, inputs)

    @functools.cache  # noqa: B019  one program for each encoder, as long as the model lives
    def _program(self, method: str) -> Any:
        return jax.jit(lambda params, x: self.module.apply({"params": params}, x, method=method))


class VideoTextModel(Model):
    """A dual encoder or a retriever."""

    def encode_video(self, frames: Any, normalize: bool = True) -> jax.Array:
        """uint8 RGB, or already normalised float32, [b, t, H, W, 3] -> [b, e].

        Raises:
            ValueError: frames of another size than the model's, or of another type.
        """
        unit, out = self._encode_video(frames)
        return unit if normalize else out["video_features"]

    def encode_text(self, texts: Sequence[str] | Any, normalize: bool = True) -> jax.Array:
        """A text, texts, or token ids int32 [b, l] -> [b, e]."""
        if isinstance(texts, str):
            texts = [texts]
        ids = self._tokenizer(texts) if isinstance(texts, Sequence) else texts
        unit, out = self._apply("encode_text", jnp.asarray(ids))
        return unit if normalize else out["text_features"]


class VideoCaptioner(Model):
    """A captioner."""

    def generate(self, frames: Any, prompt: str = "", seed: int = 0, **search: Any) -> list[str]:
        """Captions of uint8 RGB, or already normalised float32, [b, t, H, W, 3].

        Args:
            prompt: how the captions begin; it is not part of what comes back.
            seed: of what nucleus search draws.
            search: fields of `vlt.models.generation.Search`.

        Raises:
            ValueError: frames of another size or type, a prompt or a max_length that is longer
                than the model allows, or a search that cannot be.
        """
        context = self.module.spec.text.context
        options = Search(**{"max_length": min(Search.max_length, context)} | search)
        start = self._tokenizer.prompt(prompt)
        tokens, _ = self._encode_video(frames)
        starts = jnp.tile(start, (len(tokens), 1))
        rng = jax.random.key(seed)
        ids = generate(self.module, self.params, tokens, starts, options, rng)
        return self._tokenizer.decode(np.asarray(ids)[:, len(start) :])


KINDS: dict[str, type[Model]] = {  # by kind of spec
    "dual_encoder": VideoTextModel,
    "retriever": VideoTextModel,
    "captioner": VideoCaptioner,
}


def load(path: str | Path) -> Any:
    """Loads a converted, exported or packaged model ("tiny_clip").

    Returns a `VideoTextModel` or a `VideoCaptioner`, whichever the folder holds.

    Raises:
        ModelFolderError: absent, half written, or not what its config.json says.
        ValueError: a kind of model that has no such object.
    """
    return as_model(load_folder(str(path)))


def as_model(loaded: LoadedModel) -> Any:
    """The object for a model that is in memory already.

    Raises:
        ValueError: a kind of model that has no such object.
    """
    spec = loaded.config.spec
    if spec.kind not in KINDS:
        raise ValueError(f"a model of kind {spec.kind}; one of {', '.join(KINDS)} is needed")
    tokenizer = Tokenizer.load(loaded.tokenizer, spec.text.context)
    return KINDS[spec.kind](loaded.module, loaded.params, loaded.config, tokenizer)
