"""What can be wrong with a video file: one type per cause, each naming the file."""

from collections.abc import Iterable

from vlt.pytrees.fields import near


class VideoError(Exception):
    """A video that cannot be used as asked.

    Attributes:
      path: the file.
      reason: the cause, as a plain sentence.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self):
        # grain's own workers pass errors on as pickles.
        return type(self), (self.path, self.reason)


class CannotOpen(VideoError):
    """Missing, unreadable, or no container that libav knows."""


class NotAVideo(VideoError):
    """Opens, but is a still image, a text, or sound alone."""


class Truncated(VideoError):
    """Frames are missing or damaged: the decoder ends in an error or marks a frame as corrupt, the
    last frame lies far before the picture's promised end, or the container's structure or the
    packets show a gap."""


class NoFrames(VideoError):
    """Opens, and not one frame decodes."""


class WrongFrames(VideoError):
    """The frames asked for do not exist, or frames of different sizes were asked for."""


class UnsupportedTurn(VideoError):
    """Its display matrix asks for more than mirrors and quarter turns."""


class WrongSeek(VideoError):
    """Jumping to a frame shows another one than decoding the file in order."""


class BrokenShard(VideoError):
    """A shard that is missing, cut, changed or of another run, or has no such record."""


class ChangedFile(VideoError):
    """Its bytes are not those that the manifest's `sha256` tells of."""


class NoText(VideoError):
    """Nothing is left of its captions or its question after clean-up."""


class UnsupportedByDecord(VideoError):
    """decord cannot read this file, or is known or seen to return other frames of it."""


class DecodeTimeout(VideoError):
    """The decoder took longer than its time limit and was killed."""


class DecoderDied(VideoError):
    """The decoder's process ended without an answer (a crash in a codec library)."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is none of `known`, with the nearest of them."""
    return ValueError(f"unknown {kind} {name!r}{near(name, known)}")
