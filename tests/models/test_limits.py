"""The last value that a method takes of an option, and the first that it refuses in a sentence."""

import dataclasses

import pytest

from vlt.methods import build_methods
from vlt.models.spec import ChatSpec, DualEncoderSpec, LlamaSpec, TextSpec, VisionSpec

FRAMES = 4
# 16 patches, 4 blocks of vision and 3 of text, 12 tokens of a text.
VISION = VisionSpec(32, 8, 128, 4, 2, 256)
CLIP = DualEncoderSpec(VISION, TextSpec(12, 50, 128, 3, 2, 256), 128)
CHAT = ChatSpec(VISION, LlamaSpec(12, 20, 16, 1, 2, 32))
POSITIVE = {
    "actionclip": ("layers",),
    "adapter": ("bottleneck",),
    "adaptformer": ("bottleneck",),
    "attention_probe": ("classes",),
    "btadapter": ("depth", "max_frames"),
    "dgl": ("global_tokens", "tokens"),
    "lora": ("rank",),
    "mote": ("layers", "experts", "nearest"),
    "msta": ("bottleneck",),
    "mv_adapter": ("gate", "words", "factor"),
    "ost": ("steps",),
    "plevu": ("layers", "heads"),
    "prompt": ("tokens",),
    "st_adapter": ("width",),
    "temporal_transformer": ("layers",),
    "token_rows": ("rows",),
    "vificlip": ("visual_depth", "text_depth"),
    "vita_clip": ("frames",),
    "vl_adapter": ("reduction",),
    "vop": ("tokens", "prefix", "frames_apart"),
    "xclip": ("mit_layers", "prompt_layers"),
}
NOT_NEGATIVE = {
    "attention_probe": ("heads",),
    "mote": ("heads", "classes"),
    "msta": ("scale",),
    "plevu": ("prefix", "postfix"),
    "token_mixing": ("cross_factor",),
    "tome": ("r",),
    "vificlip": ("visual_tokens", "text_tokens"),
    "vita_clip": ("global_prompts", "text_prompts"),
    "vop": ("suffix",),
}
LEARNED = {"kept": None, "merged": None}
# Method, option, the last value that fits, the first that does not, and what else is set.
LARGEST = [
    ("actionclip", "max_frames", FRAMES, FRAMES - 1, {"sim_header": "Transf"}),
    ("adaptformer", "dropout", 0.999, 1.0, {}),
    ("btadapter", "drop_path", 0.999, 1.0, {}),
    ("btadapter", "mask_rate", 0.999, 1.0, {}),
    ("btadapter", "spare", 3, 4, {"depth": 4}),
    ("btadapter", "spare", 1, 2, {"depth": 1}),
    ("clip4clip", "layers", 3, 4, {"sim_header": "seqTransf", "max_frames": 4}),
    ("clip4clip", "max_frames", FRAMES, FRAMES - 1, {"sim_header": "seqTransf", "layers": 3}),
    ("clip4clip", "max_frames", 12, 13, {"sim_header": "seqTransf", "layers": 3}),
    ("clip4clip", "max_frames", 5, 4, {"sim_header": "tightTransf", "layers": 3}),
    ("dgl", "frames", 0, 1, {"latent": "linear", "tokens": 1}),
    ("dgl", "frames", 4, 3, {"latent": "table", "tokens": 1}),
    ("dgl", "tokens", 4, 5, {}),
    ("diffrate", "granularity", 16, 17, LEARNED),
    ("diffrate", "merged", (15, 14, 13, 1), (15, 14, 13, 0), {"kept": (16, 15, 14, 13)}),
    ("diffrate", "kept", (16, 15, 14, 13), (16, 15, 14, 14), {"merged": (15, 14, 13, 12)}),
    ("evit", "keep", 0.999, 1.0, {"layers": (1,)}),
    ("evit", "layers", (3,), (4,), {}),
    ("mote", "max_frames", FRAMES, FRAMES - 1, {}),
    ("msta", "dropout", 0.999, 1.0, {"shared": False}),
    ("patch_dropout", "rate", 0.999, 1.0, {}),
    ("plevu", "postfix", 4, 5, {"prefix": 5}),
    ("separate_st", "layers", (3,), (4,), {"max_frames": FRAMES}),
    ("sta", "keep", 0.999, 1.0, {"layers": (0,)}),
    ("sta", "keep", 0.5, 0.437, {"layers": (0,)}),
    ("temporal_transformer", "layers", 4, 5, {}),
    ("tempme", "join", (2, 2), (2, 3), {"layers": (1, 2)}),
    ("tempme", "keep_cross", 100, 101, {"layers": (1,), "join": (2,), "r": 0}),
    ("tempme", "keep_intra", 100, 101, {"layers": (1,), "join": (2,), "r": 0}),
    ("tempme", "layers", (3,), (4,), {"join": (2,), "r": 0}),
    ("testa", "frame_r", 2, 3, {"layers": (0,), "r": 0}),
    ("testa", "frame_r", 1, 2, {"layers": (0, 1, 2), "r": 0}),
    ("token_rows", "rows", 49, 50, {}),
    ("tome", "r", 3, 4, {}),
    ("vificlip", "text_depth", 3, 4, {"text_tokens": 1, "visual_depth": 1}),
    ("vificlip", "text_tokens", 9, 10, {"visual_depth": 1, "text_depth": 1}),
    ("vificlip", "visual_depth", 4, 5, {"text_depth": 1, "text_tokens": 1}),
    ("vita_clip", "text_prompts", 9, 10, {"frames": 2}),
    ("vl_adapter", "reduction", 128, 129, {}),
    ("vop", "frames_apart", 3, 4, {"variant": "F+C", "prefix": 1, "suffix": 1}),
    ("vop", "specific", 2, 3, {"variant": "C", "tokens": 3, "prefix": 1, "suffix": 1}),
    ("vop", "suffix", 4, 5, {"prefix": 5}),
]
SMALLEST = [
    ("evit", "keep", 0.001, 0.0, {"layers": (1,)}),
    ("mote", "bandwidth", 1e-9, 0.0, {}),
    ("ost", "entropy", 1e-9, 0.0, {}),
    ("testa", "r", 0, -1, {"layers": (0,), "frame_r": 0}),
    ("testa", "frame_r", 0, -1, {"layers": (0,), "r": 0}),
    ("tempme", "keep_cross", 1, 0, {"layers": (1,), "join": (2,), "r": 0}),
    ("tempme", "keep_intra", 1, 0, {"layers": (1,), "join": (2,), "r": 0}),
    ("tempme", "layers", (0,), (-1,), {"join": (2,), "r": 0}),
    ("tempme", "join", (1,), (0,), {"layers": (1,), "r": 0}),
    ("btadapter", "spare", 0, -1, {}),
    ("diffrate", "granularity", 1, 0, LEARNED),
]


def refused(method, option, value, others):
    fields = {method: others | {option: value}}
    with pytest.raises(ValueError, match=rf"{method}\.{option}\b|{FRAMES} frames"):
        build_methods(fields)[0].check(CLIP, FRAMES)


@pytest.mark.parametrize(("method", "option", "last", "next_", "others"), LARGEST + SMALLEST)
def test_ends(method, option, last, next_, others):
    build_methods({method: others | {option: last}})[0].check(CLIP, FRAMES)
    refused(method, option, next_, others)


@pytest.mark.parametrize(
    ("method", "option", "least"),
    [(m, o, 1) for m, options in POSITIVE.items() for o in options]
    + [(m, o, 0) for m, options in NOT_NEGATIVE.items() for o in options],
)
def test_least_numbers(method, option, least):
    assert getattr(build_methods({method: {option: least}})[0], option) == least
    refused(method, option, least - 1, {})


@pytest.mark.parametrize(("depth", "read", "fits"), [(3, 2, True), (4, 2, False), (1, 4, True)])
def test_a_branch_is_beside_blocks_that_a_language_model_reads(depth, read, fits):
    chat = dataclasses.replace(CHAT, read=read)
    (method,) = build_methods({"btadapter": {"depth": depth, "inputs": "last_k", "spare": 0}})
    if fits:
        return method.check(chat, FRAMES)
    with pytest.raises(ValueError, match=f"btadapter.depth={depth} and btadapter.spare=0: {depth}"):
        method.check(chat, FRAMES)
