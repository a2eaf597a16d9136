"""ActionCLIP's layout: OpenAI's names, and a head over frames in another entry of one file."""

from vlt.convert.clip import SCALE, openai_text, openai_vision
from vlt.convert.family import Family, dense, fused, norm
from vlt.convert.table import CONV, LINEAR, SPLIT, SPLIT_LINEAR, Rule, Transform
from vlt.model_io.view import View

_MODEL, _FUSION, _HEAD = "model_state_dict", "fusion_model_state_dict.", "visual/actionclip"
_TOKEN = Transform(
    "drop 2 unit axes", 3, lambda x: [x.squeeze(axis=(0, 1))], lambda parts: parts[0][None, None]
)
_POSITIONS = Transform(
    "drop 1 unit axis", 3, lambda x: [x.squeeze(axis=0)], lambda parts: parts[0][None]
)
_DEPTHWISE = Transform(
    "(channel, 1, frame) -> (frame, channel)",
    3,
    lambda x: [x.squeeze(axis=1).T],
    lambda parts: parts[0].T[:, None],
)
