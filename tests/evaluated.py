"""What evaluations read, without files: records, clips of noise, and numbers as words."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from vlt.data.text.captions import Cleaning
from vlt.evaluation.predictor import Predictor
from vlt.models.video_model import VideoModel
from vlt.runtime.mesh import make_mesh

BATCH = 8


class Words:
    """A tokenizer of texts like "3 17 5"; 1 starts and 2 ends them."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [b, 6]."""
        rows = np.zeros((len(texts), 6), np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = [1, *map(int, text.split()), 2]
            row[: len(ids)] = ids
        return rows

    def entries(
        self, texts: Mapping[str, Sequence[str]], rows: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Token ids of each entry's texts."""
        return {name: self(found) for name, found in texts.items()}

    def decode(self, ids: np.ndarray) -> list[str]:
        """The texts, up to the end token."""
        return [" ".join(map(str, row[: [*row, 2].index(2)])) for row in ids.tolist()]


def predictor(module: VideoModel, workdir: Path, devices: int = 1) -> Predictor:
    """A predictor on this many devices."""
    import jax

    mesh = make_mesh({"data": devices}, jax.devices()[:devices])
    return Predictor(module, mesh, Words(), workdir)  # type: ignore[arg-type]


def clip(video: str, side: int = 8) -> np.ndarray:
    """Two frames of noise that depends on the video's name, uint8 [2, h, w, 3]."""
    seed = sum(map(ord, video))
    return np.random.default_rng(seed).integers(0, 255, (2, side, side, 3), dtype=np.uint8)


def data(
    records: Sequence[Any], unread: Sequence[int] = (), own: slice = slice(None), side: int = 8
) -> Any:
    """Records as a `VideoData` gives them; those in `unread` cannot be read.

    own: rows of a batch that this process reads. side: height and width of the frames.
    """

    def evaluate(step: int) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(records), BATCH):
            rows = np.arange(start, start + BATCH)[own]
            ids = np.where(rows < len(records), rows, -1).astype(np.int32)
            mask = (ids >= 0) & ~np.isin(ids, unread)
            video = [
                clip(records[i].video, side) if ok else np.zeros_like(clip("", side))
                for i, ok in zip(ids, mask, strict=True)
            ]
            yield {"video": np.stack(video), "ids": ids, "mask": mask}

    return SimpleNamespace(records=records, evaluate=evaluate, clean=Cleaning(), name="test")
