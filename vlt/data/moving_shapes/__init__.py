"""Moving shapes: a data set that needs no download and that only a model that sees time can solve.

`generate` writes video files and manifests; `draw_frame` and `static_set` give single frames in
memory. The card written beside the files says how the data are made and what to beware of.
"""

from vlt.data.moving_shapes.clips import Clip, Frame, draw_frame, draw_pair, static_set
from vlt.data.moving_shapes.grammar import CONTEXT, VOCABULARY, write_tokenizer
from vlt.data.moving_shapes.knobs import Knobs
from vlt.data.moving_shapes.questions import CHAT_CONTEXT, Question, write_chat_tokenizer
from vlt.data.moving_shapes.scene import CLIP_FRAMES, FAMILIES, SIZE, looks
from vlt.data.moving_shapes.writer import cached, generate, write_video

__all__ = [
    "CHAT_CONTEXT",
    "CLIP_FRAMES",
    "CONTEXT",
    "FAMILIES",
    "SIZE",
    "VOCABULARY",
    "Clip",
    "Frame",
    "Knobs",
    "Question",
    "cached",
    "draw_frame",
    "draw_pair",
    "generate",
    "looks",
    "static_set",
    "write_chat_tokenizer",
    "write_tokenizer",
    "write_video",
]
