"""A model in memory, as an object that encodes videos and texts, or captions videos."""

import contextlib
import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.arguments import (
    as_ids,
    as_paths,
    as_texts,
    as_video,
    check_text,
    looks_unnormalised,
    whole_number,
)
from vlt.data.video.errors import VideoError
from vlt.data.video.sample import check_sampler
from vlt.inference.batching import map_videos
from vlt.inference.prefetch import clip_request
from vlt.model_io.build import check_frames
from vlt.model_io.folder import ModelConfig
from vlt.models.dual_encoder import DualEncoder
from vlt.models.generation import generate
from vlt.models.search import Search
from vlt.models.video_model import VideoModel
from vlt.pytrees.fields import from_values, shown
from vlt.storage.trees import fingerprint

TEXTS_AT_ONCE = 256
VIDEOS_AT_ONCE = 32


class Model:
    """A model with its parameters and tokenizer.

    Attributes:
        module: the Flax module; `module.apply({"params": params}, ...)` for everything else.
        params: its parameters.
        config: sizes, methods, preprocessing, frames; `view` is what it sees of a video.
    """

    def __init__(
        self, module: VideoModel, params: dict[str, Any], config: ModelConfig, tokenizer: Any
    ):
        self.module, self.config = module, config
        self.params = jax.device_put(params)
        self._tokenizer = tokenizer
        self._warned = False

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of its weights and of how it computes: equal for two models that embed alike."""
        methods = sorted(self.config.methods.items())
        text = f"{fingerprint(self.params)} {self.config.frame_norm} {methods}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def read_videos(
        self, paths: Any, frames: int | None = None, sampler: str | None = None
    ) -> np.ndarray:
        """Reads what the model sees of one or more video files: uint8 RGB [b, t, H, W, 3].

        Frames are resized and cropped as in the model's evaluation.

        Args:
            frames, sampler: how many frames are taken, and by which rule of vlt.data.video.sample;
                by default as in `model.config.view`. Random rules give the same frames each time.

        Raises:
            VideoError: a file cannot be read; the message names it.
            ValueError: no paths, an unknown rule, frames that the model is not for, or videos of
                which the rule takes different numbers of frames.
        """
        files = as_paths(paths)
        if files is None:
            raise ValueError(
                f"paths must be the path of a video file, or several, got {shown(paths)}"
            )
        config = self.looking_at(frames, sampler)
        self._check_frames(clip_request(config, "").frames)
        return np.stack(_of_files(lambda video: video, config, files))

    def looking_at(
        self,
        frames: int | None = None,
        sampler: str | None = None,
        allow_truncated: bool | None = None,
    ) -> ModelConfig:
        """The config with another number of frames, another rule for taking them, or another for
        damaged videos."""
        view = self.config.view
        if sampler is not None:
            check_sampler(sampler)
            view = dataclasses.replace(view, sampler=sampler)
        if frames is not None:
            view = dataclasses.replace(view, frames=whole_number("frames", frames))
        if allow_truncated is not None:
            view = dataclasses.replace(view, allow_truncated=allow_truncated)
        return dataclasses.replace(self.config, view=view)

    def _each_video(self, function: Callable[[Any], Any], videos: Any) -> Any:
        """The function's results for frames, or for files, which are read while it runs."""
        paths = as_paths(videos)
        if paths is None:
            return function(videos)
        return _of_files(function, self.config, paths)

    def _encode_video(self, frames: Any) -> tuple[jax.Array, dict[str, Any]]:
        """The encoder's outputs; activations of only some of the videos are in memory together."""
        video = self._video(frames)
        starts = range(0, len(video), VIDEOS_AT_ONCE)
        parts = [self._apply("encode_video", video[at : at + VIDEOS_AT_ONCE]) for at in starts]
        return parts[0] if len(parts) == 1 else jax.tree.map(_together, *parts)

    def _video(self, frames: Any) -> jax.Array:
        video = as_video(frames, self.module.spec.visual)
        self._check_frames(video.shape[1])
        shifted = any(self.module.mean)  # else pixels from 0 to 1 are as they should be
        if shifted and not self._warned and looks_unnormalised(video):
            self._warned = True
            warnings.warn(
                "frames are float32 from 0 to 1, as if not yet normalised; give uint8, or "
                "(frames - model.module.mean) / model.module.std (said once)",
                stacklevel=6,
            )
        return video

    def _as_ids(self, tokens: np.ndarray) -> jax.Array:
        """The ids that the tokenizer made of texts, checked against the model."""
        text = self.module.spec.text
        try:
            return as_ids(tokens, text.vocab, self.module.longest_text)
        except ValueError as error:
            raise ValueError(f"the folder's tokenizer is another model's: {error}") from error

    @functools.cache  # noqa: B019  asked once for each number
    def _check_frames(self, frames: int) -> None:
        if self.module.methods and frames != self.module.frames:
            check_frames(self.module, self.params, frames)

    def _apply(self, method: str, inputs: jax.Array) -> Any:
        return self._program(method)(self.params, inputs)

    @functools.cache  # noqa: B019  one program for each encoder, as long as the model lives
    def _program(self, method: str) -> Any:
        return jax.jit(lambda params, x: self.module.apply({"params": params}, x, method=method))


class VideoTokens(Model):
    """A vision tower alone."""

    def encode_video(self, frames: Any) -> jax.Array:
        """Videos as in `VideoTextModel.encode_video` -> tokens [b, t * n, d], frame after frame.

        Raises:
            ValueError, VideoError: as in `VideoTextModel.encode_video`.
        """
        return jnp.asarray(self._each_video(lambda video: self._encode_video(video)[0], frames))


class VideoTextModel(Model):
    """A dual encoder or a retriever."""

    def encode_video(self, frames: Any, normalize: bool = True) -> jax.Array:
        """uint8 RGB, or already normalised float32, [b, t, H, W, 3], or files -> [b, e].

        A path, or a list of paths, stands for what `read_videos` returns for them.

        Takes arrays of numpy, jax or torch, or lists of arrays of one shape. Warns once about
        floats that all lie from 0 to 1, which look as if they were not normalised.

        Raises:
            ValueError: frames of another shape or type, of a number that the model is not for, or
                with values that no normalised frame has.
            VideoError: a file cannot be read; the message names it.
        """

        def encode(video: Any) -> jax.Array:
            unit, out = self._encode_video(video)
            return unit if normalize else out["video_features"]

        return jnp.asarray(self._each_video(encode, frames))

    def encode_text(self, texts: Any, normalize: bool = True) -> jax.Array:
        """A text, texts, or token ids [b, l], integers of the model's vocabulary -> [b, e].

        Raises:
            ValueError: no text, or neither texts nor such ids.
        """
        found: jax.Array = self._of_texts(
            self._ids(texts), lambda unit, out: unit if normalize else out["text_features"]
        )
        return found

    def scores(self, frames: Any, texts: Any) -> jax.Array:
        """The similarity of v videos to c texts, both as the encoders take them: [v, c].

        Cosines, or what a method computes from a video and a text together, before the logit scale.

        Raises:
            ValueError, VideoError: as `encode_video` and `encode_text`.
        """
        module, ids = self.module, self._ids(texts)
        if not module.scores_pairs:
            unit = self._of_texts(ids, lambda unit, _: unit)
            return jnp.asarray(
                self._each_video(lambda x: self._encode_video(x)[0] @ unit.T, frames)
            )
        assert isinstance(module, DualEncoder)
        text = self._of_texts(ids, lambda _, out: module.text_parts(out))

        def score(video: Any) -> jax.Array:
            parts = module.video_parts(self._encode_video(video)[1])
            scored: jax.Array = self._scores(self.params, parts, text)
            return scored

        return jnp.asarray(self._each_video(score, frames))

    def _of_texts(self, ids: jax.Array, pick: Callable[[Any, Any], Any]) -> Any:
        """What is picked of the outputs for texts, which are encoded in batches of few sizes, since
        each size is compiled once."""
        found = []
        for at in range(0, len(ids), TEXTS_AT_ONCE):
            some = ids[at : at + TEXTS_AT_ONCE]
            spare = min(TEXTS_AT_ONCE, 1 << (len(some) - 1).bit_length()) - len(some)
            picked = pick(*self._apply("encode_text", jnp.pad(some, ((0, spare), (0, 0)), "edge")))
            found.append(picked)
        return jax.tree.map(lambda *parts: _together(*parts)[: len(ids)], *found)

    @functools.cached_property
    def _scores(self) -> Any:
        return jax.jit(
            lambda params, *parts: self.module.apply({"params": params}, *parts, method="scores")
        )

    def _ids(self, texts: Any) -> jax.Array:
        """The ids of texts; ids are checked and stay as they are."""
        words, spec = as_texts(texts), self.module.spec.text
        if words is None:
            return as_ids(texts, spec.vocab, self.module.longest_text)
        return self._as_ids(self._tokenizer(words))

    def words(self, text: str) -> int:
        """The number of tokens in a text, including those that mark its start and end."""
        return self._tokenizer.length(text)


class VideoCaptioner(Model):
    """A captioner."""

    def generate(self, frames: Any, prompt: str = "", seed: int = 0, **search: Any) -> list[str]:
        """Captions uint8 RGB, or already normalised float32, [b, t, H, W, 3], or files.

        Args:
            prompt: how the captions begin; it is not part of what is returned.
            seed: seeds the sampling of nucleus search.
            search: fields of `vlt.models.search.Search`.

        Raises:
            ValueError, VideoError: frames or files that `VideoTextModel.encode_video` refuses, a
                prompt or a max_length longer than the model allows, or an invalid search.
        """
        longest = min(Search.max_length, self.module.spec.text.context)
        options = from_values(Search, {"max_length": longest} | search, "generate", "option")
        check_text(prompt, "prompt")
        if not isinstance(seed, (int, np.integer)) or abs(seed) >= 2**63:
            raise ValueError(f"seed must be a whole number of 64 bits, got {shown(seed)}")
        start = self._as_ids(self._tokenizer.prompt(prompt)[None])[0]

        def caption(video: Any) -> list[str]:
            tokens, _ = self._encode_video(video)
            starts = jnp.tile(start, (len(tokens), 1))
            rng = jax.random.key(seed)
            ids = generate(self.module, self.params, tokens, starts, options, rng)
            return self._tokenizer.decode(np.asarray(ids)[:, len(start) :])

        return self._each_video(caption, frames)


def _together(*parts: jax.Array) -> jax.Array:
    return jnp.concatenate(parts)


def _of_files(function: Callable[[Any], Any], config: ModelConfig, paths: list[str]) -> list[Any]:
    """The function's result for each file's frames.

    Raises:
        VideoError: a file cannot be read; the first one does.
        ValueError: results of different shapes, as of videos with different numbers of frames.
    """
    results: list[Any] = []
    with contextlib.closing(map_videos(function, config, paths)) as found:
        for path, result in found:
            if isinstance(result, VideoError):
                raise result
            results.append(result)
            if np.shape(result) != np.shape(results[0]):
                shapes = [" x ".join(map(str, np.shape(each))) for each in (results[0], result)]
                raise ValueError(
                    f"{paths[0]} gives {shapes[0]} and {path} {shapes[1]} values, which do not fit "
                    "into one array; give these videos one by one"
                )
    return results
