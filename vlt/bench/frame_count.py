"""A process that counts frames: what vlt.data.worker is to clips."""

import dataclasses

import numpy as np

from vlt.data import worker
from vlt.data.decode import Video

SAMPLED = 8  # frames that are read of a video


@dataclasses.dataclass(frozen=True)
class Request:
    """Whose frames to count: after reading some, or after decoding the `whole` file."""

    path: str
    whole: bool


def count(request: Request) -> np.ndarray:
    """How many frames a file has: int64 [1], seen as uint8. Raises: errors.VideoError."""
    with Video(request.path) as video:
        if request.whole:
            for _ in video.frames([]):
                pass
        else:
            video.read(np.linspace(0, len(video) - 1, SAMPLED).astype(int).tolist())
        return np.array([len(video)]).view(np.uint8)


if __name__ == "__main__":
    worker.main(count, Request)
