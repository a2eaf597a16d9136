"""Models of this package as encoders for MTEB (extra `mteb`) and its suites of video tasks.

    import mteb
    from vlt.mteb_encoder import Encoder

    mteb.evaluate(Encoder("checkpoints/siglip2_b16"), mteb.get_tasks(["MSRVTTT2V"]))

A video is seen as `vlt.load(...).config.view` says: its frames are taken by our rules, not MTEB's.
"""

import functools
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlt.api import load
from vlt.data.video.sample import sample
from vlt.data.video.transform import apply_transform
from vlt.inference.prefetch import clip_request
from vlt.loaded import VideoTextModel
from vlt.model_io.build import abstract_params
from vlt.pytrees.paths import by_path

MODALITIES = ("text", "video", "image", "audio")  # entries of MTEB's batches


class Encoder:
    """MTEB's `EncoderProtocol` for a dual encoder or a retriever.

    model: from `vlt.load`, or its folder. revision, device: as MTEB's own command passes them; they
    do not decide where JAX computes. options: those of `vlt.load` for a folder, such as frames.

    Raises:
        ValueError: a model without embeddings of videos and texts, or one whose methods score pairs
            of a video and a text, which no two vectors can represent.
    """

    def __init__(
        self,
        model: str | Path | VideoTextModel,
        revision: str | None = None,
        *,
        device: str | None = None,
        **options: Any,
    ):
        found = load(model, **options) if isinstance(model, (str, Path)) else model
        if not isinstance(found, VideoTextModel):
            raise ValueError(f"a {type(found).__name__} has no embeddings of videos and texts")
        if found.module.scores_pairs:
            names = ", ".join(m.name for m in found.module.methods if m.scores_pairs)
            raise ValueError(f"{names} scores pairs of a video and a text, and MTEB takes vectors")
        self.model, self.revision = found, revision
        self.name = Path(model).name if isinstance(model, (str, Path)) else found.config.family

    def encode(self, inputs: Iterable[Mapping[str, Any]], **about: Any) -> np.ndarray:
        """Batches of texts, of videos or of pictures -> unit vectors [n, e] (for a model whose
        scores are means over frames, the vectors whose products are its scores).

        about: the task, its split and whatever else MTEB passes, which has no effect.

        Raises:
            ValueError: sound, or several kinds in one batch, for which the model has no vector.
            VideoError: a file cannot be read; the message names it.
        """
        return np.concatenate([self._batch(batch) for batch in inputs])

    def _batch(self, batch: Mapping[str, Any]) -> np.ndarray:
        kinds = [kind for kind in MODALITIES if kind in batch]
        if len(kinds) != 1 or kinds == ["audio"]:
            raise ValueError(
                f"a batch of {' and '.join(kinds) or 'nothing known'}: this model embeds texts, "
                "videos or pictures, one of them at a time"
            )
        values = batch[kinds[0]]
        if kinds == ["text"]:
            return np.asarray(self.model.encode_text([str(text) for text in values]))
        with tempfile.TemporaryDirectory() as folder:
            files = [_file(value, Path(folder) / str(i)) for i, value in enumerate(values)]
            if all(files):
                return np.asarray(self.model.encode_video(files))
            seen = [self._frames(value) for value in values]
        return np.asarray(self.model.encode_video(np.stack(seen)))

    def _frames(self, video: Any) -> np.ndarray:
        """What the model sees of a torchcodec decoder, of all frames of a video, or of a picture:
        uint8 [t, H, W, 3]."""
        if hasattr(video, "get_frames_at"):
            data = video.metadata
            indices = self._indices(data.num_frames, data.average_fps or 0.0)
            return self._cut(video.get_frames_at(indices=indices.tolist()).data)
        if hasattr(video, "convert"):  # a Pillow image
            video = np.asarray(video.convert("RGB"))[None]
        return self._cut(video[self._indices(len(video), 0.0)])

    def _indices(self, count: int, fps: float) -> np.ndarray:
        look = clip_request(self.model.config, "")
        rng = np.random.default_rng(look.seed)  # never used: no view has a random rule
        return sample(look.sampler, count, look.frames, rng=rng, fps=fps)

    def _cut(self, frames: Any) -> np.ndarray:
        look = clip_request(self.model.config, "")
        return apply_transform(look.transform, _channels_last(frames), look.seed)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Scores [n, m] of all pairs, as `VideoTextModel.scores` computes them."""
        first, second = (np.asarray(x, np.float32) for x in (embeddings1, embeddings2))
        return np.atleast_2d(first) @ np.atleast_2d(second).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Scores [n] of the pairs at the same indices."""
        first, second = (np.asarray(x, np.float32) for x in (embeddings1, embeddings2))
        return (first * second).sum(-1)

    @functools.cached_property
    def mteb_model_meta(self) -> Any:
        """What MTEB records about a model. Raises ImportError without the extra."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        module = self.model.module
        leaves = by_path(abstract_params(module)).values()
        return ModelMeta(
            loader=None,
            name=f"vlt/{self.name}",
            revision=self.revision or self.model.fingerprint,
            release_date=None,
            languages=None,
            n_parameters=sum(int(np.prod(leaf.shape)) for leaf in leaves),
            memory_usage_mb=None,
            max_tokens=module.longest_text,
            embed_dim=module.spec.embed_dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["JAX"],
            similarity_fn_name=ScoringFunction.DOT_PRODUCT,
            use_instructions=False,
            training_datasets=None,
            modalities=["text", "video", "image"],
        )


def _file(video: Any, spare: Path) -> str | None:
    """The file of a video given as a path, or as a dict with a `path` or with `bytes`, which are
    written to `spare` with a suffix; None for anything else."""
    if isinstance(video, (str, Path)):
        return str(video)
    if not isinstance(video, Mapping):
        return None
    if video.get("bytes") is None:
        return str(video.get("path"))
    file = spare.with_suffix(Path(video.get("path") or ".mp4").suffix)
    file.write_bytes(video["bytes"])
    return str(file)


def _channels_last(frames: Any) -> np.ndarray:
    """uint8 [t, H, W, 3] from frames whose channels are last, or second as in torch."""
    array = np.asarray(frames)
    if array.dtype != np.uint8 or array.ndim != 4 or 3 not in (array.shape[1], array.shape[3]):
        raise ValueError(f"frames are {array.dtype}{list(array.shape)}, not uint8 [t, H, W, 3]")
    return array if array.shape[3] == 3 else np.moveaxis(array, 1, 3)
