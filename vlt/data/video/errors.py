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
    """The file is missing, unreadable, or in no container that libav knows."""


class NotAVideo(VideoError):
    """The file opens, but is a still image, a text, or sound alone."""


class Truncated(VideoError):
    """Frames are missing or damaged: the decoder ends in an error or marks a frame as corrupt, the
    last frame lies far before the picture's promised end, or the container's structure or the
    packets show a gap."""


class NoFrames(VideoError):
    """The file opens, but not a single frame decodes."""


class WrongFrames(VideoError):
    """The frames asked for do not exist, or frames of different sizes were asked for."""


class UnsupportedTurn(VideoError):
    """The display matrix asks for more than mirrors and quarter turns."""


class WrongSeek(VideoError):
    """Seeking to a frame shows a different one than decoding the file in order."""


class BrokenShard(VideoError):
    """A shard is missing, cut, changed or from another run, or lacks the record."""


class ChangedFile(VideoError):
    """The file's bytes do not match the manifest's `sha256`."""


class NoText(VideoError):
    """Nothing is left of the video's captions or question after clean-up."""


class UnsupportedByDecord(VideoError):
    """decord cannot read this file, or is known or seen to return wrong frames for it."""


class DecodeTimeout(VideoError):
    """The decoder took longer than its time limit and was killed."""


class DecoderDied(VideoError):
    """The decoder process ended without an answer (a codec library crashed), gave a bad one, or
    failed in a way that nobody foresaw."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not in `known`; it names the nearest ones."""
    return ValueError(f"unknown {kind} {name!r}{near(name, known)}")
