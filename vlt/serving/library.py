"""What the page shows of an index: videos by number, frames as pictures, and ranges found."""

import functools
import io
import itertools
import os
import stat
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from PIL import Image

from vlt.data.video.clips import DecoderPool
from vlt.data.video.glance import GlanceRequest
from vlt.data.video.spans import SPAN_WORKER, Span, SpansRequest
from vlt.indexing.index import Index
from vlt.indexing.rows import FileEntry
from vlt.indexing.search import Found
from vlt.inference.prefetch import clip_request
from vlt.inference.token_maps import CAPTION, CAPTION_PRUNED, enlarged, token_maps
from vlt.model_io.build import merges_tokens
from vlt.reporting.paint import PRUNED, paint, picture

TIMEOUT = 30.0  # seconds for one frame
PICTURE = 360  # pixels of a frame's longer side
PICTURES = 2000  # that are kept


class Gone(Exception):
    """No such video, or another file is in its place."""


class Library:
    """An index whose videos have numbers. A context manager: its decoders end with it."""

    def __init__(self, index: Index, chat: Any = None):
        """chat: a chat model that answers questions about clips."""
        self.index, self.chat = index, chat
        entries = index.store.entries().values()
        self.entries = sorted((e for e in entries if not e.error), key=lambda e: e.path)
        self._numbers = {entry.path: number for number, entry in enumerate(self.entries)}
        self._pool = DecoderPool(1, TIMEOUT, SPAN_WORKER)
        self._picture = functools.lru_cache(PICTURES)(self._drawn)

    def __enter__(self) -> "Library":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def about(self) -> dict[str, Any]:
        """How much the index holds, and what its model and the chat model can do."""
        return {
            "videos": len(self.entries),
            "hours": sum(entry.duration for entry in self.entries) / 3600,
            "windows": len(self.index),
            "index": self.index.store.uri,
            "model": Path(self.index.store.about.model).name,
            "merges": merges_tokens(self.index.model.module),
            "chats": self.chat is not None,
        }

    def file(self, number: int) -> str:
        """The path of a video, if that is still the file that was indexed.

        Raises:
            Gone: it is not there, or was changed or replaced since, also by a link to another.
        """
        if not 0 <= number < len(self.entries):
            raise Gone("no such video")
        entry = self.entries[number]
        path = self.index.store.located(entry.path)
        if not _is_as_indexed(path, entry):
            raise Gone("the file has changed since it was embedded; `vlt embed` again")
        return path

    def search(self, query: Any, top: int, within: str) -> list[dict[str, Any]]:
        """Ranges that match a text or frames [t, H, W, 3]. within: what paths must contain.

        Raises: as `Index.search`.
        """
        return self._told(self.index.search(query, top, _where(within)))

    def similar(self, number: int, at: float, top: int, within: str) -> list[dict[str, Any]]:
        """Ranges of other videos that look like what a video shows `at` seconds into it."""
        path = self.entries[number].path
        found = self.index.like(path, at, top, _where(within))
        return self._told(found)

    def picture(self, number: int, tenths: int) -> bytes:
        """The frame at `tenths` tenths of a second, as JPEG.

        Raises:
            Gone: as `file`, also where the frame was shown before. errors.VideoError: it cannot be
                read.
        """
        return self._picture(self.file(number), tenths)

    def tokens(self, number: int, span: Span) -> bytes:
        """Draws which patches of a range the model makes one token, frame by frame, as PNG.

        Raises:
            Gone: as `file`, and if the model merges nothing. errors.VideoError.
        """
        model = self.index.model
        if not merges_tokens(model.module):
            raise Gone("the model of this index merges no tokens")
        clip = self._clip(model, number, span)
        layers = model.module.spec.visual.layers
        found = token_maps(model.module, model.params, [clip], (layers - 1,))[0][0]
        large = enlarged(clip)
        pruned = bool((found.tokens == PRUNED).any())
        title = f"{found.left:,} of {found.before:,} tokens"
        rows = [("what the model sees", large), (title, paint(large, found.tokens))]
        name = Path(self.entries[number].path).name
        content = io.BytesIO()
        picture(name, rows, CAPTION + CAPTION_PRUNED * pruned).save(content, "PNG")
        return content.getvalue()

    def ask(self, number: int, span: Span, question: str, stop: Event) -> str:
        """The chat model's answer to a question about a range, or the part written until `stop`.

        Raises:
            Gone: as `file`, and without a chat model. errors.VideoError, ValueError: a question
                that cannot be asked.
        """
        if self.chat is None:
            raise Gone("no chat model is loaded; `vlt serve --chat=DIR` loads one")
        clip = self._clip(self.chat, number, span)
        dialogue = self.chat.chat()
        dialogue.show(clip[None])
        pieces = itertools.takewhile(lambda _: not stop.is_set(), dialogue.stream(question))
        return "".join(pieces)

    def _clip(self, model: Any, number: int, span: Span) -> np.ndarray:
        """Frames [t, H, W, 3] of a range as a model sees them."""
        look = clip_request(model.config, self.file(number))
        # As some may have been when they were embedded.
        return self._pool.read(SpansRequest.of(look, [span], allow_truncated=True))[0]

    def _told(self, found: list[Found]) -> list[dict[str, Any]]:
        return [
            {
                "video": self._numbers[each.path],
                "path": each.path,
                "start": each.start,
                "end": each.end,
                "score": each.score,
                "chance": each.chance,
            }
            for each in found
            if each.path in self._numbers
        ]

    def _drawn(self, path: str, tenths: int) -> bytes:
        image = Image.fromarray(self._pool.read(GlanceRequest(path, tenths / 10)))
        image.thumbnail((PICTURE, PICTURE))
        content = io.BytesIO()
        image.save(content, "JPEG", quality=85)
        return content.getvalue()


def _is_as_indexed(path: str, entry: FileEntry) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    same = (found.st_size, found.st_mtime_ns) == (entry.size, entry.mtime_ns)
    return same and stat.S_ISREG(found.st_mode)


def _where(within: str) -> str:
    """An SQL condition that paths contain this text, whatever it is."""
    if not within:
        return ""
    text = within.replace("'", "''")
    return f"strpos(path, '{text}') > 0"
