"""What each leaf starts from: the deviation that its paper or its published code gives."""

import functools
import math
import re

import flax.linen as nn
import jax
import numpy as np
import pytest

from vlt.model_io.build import init_params, make_model
from vlt.models.spec import (
    BertSpec,
    BlipSpec,
    ChatSpec,
    DualEncoderSpec,
    LlamaSpec,
    PoolerSpec,
    QFormerSpec,
    TextSpec,
    VisionSpec,
)

FRAMES, WIDTH, EMBED = 16, 256, 128
VISION = VisionSpec(64, 4, WIDTH, 3, 4, 4 * WIDTH)
TEXT = TextSpec(77, 100, 128, 2, 2, 512)
CLIP = DualEncoderSpec(VISION, TEXT, EMBED)
POOLED = VisionSpec(
    16, 4, 2048, 1, 16, 64, pool="attention", pooler=PoolerSpec(16, 64), projection=False
)
BLIP = BlipSpec(
    "captioner",
    VisionSpec(16, 4, 64, 1, 1, 256, "gelu", pre_norm=False, patch_bias=True),
    BertSpec(32, 100, 128, 1, 2, 512, 64, decode_id=1, encode_id=2, end_id=3),
)
CHAT = ChatSpec(
    VisionSpec(16, 4, 64, 1, 1, 256),
    LlamaSpec(32, 100, 128, 1, 2, 256),
    "qformer",
    QFormerSpec(32, 128, 1, 2, 256, 64),
    read=1,
    cls="first",
)
# Spec, methods, and the deviation of the leaves whose paths match.
STARTS = {
    "CLIP": (
        CLIP,
        {},
        {
            "visual/patch_embedding/kernel": 48**-0.5,
            "visual/(position_embedding|projection/kernel)": WIDTH**-0.5,
            "visual/blocks_0/mlp/fc2/kernel": (4 * WIDTH) ** -0.5,
            "text/position_embedding": 0.01,
            "text/token_embedding/embedding": 0.02,
            "text/projection/kernel": 128**-0.5,
        },
    ),
    "SigLIP's pooler": (
        DualEncoderSpec(POOLED, TEXT, 2048),
        {},
        {"visual/pooler/probe": 2048**-0.5},
    ),
    "BLIP": (BLIP, {}, {"text/.*(embedding|kernel)": 0.02}),
    "chat": (
        CHAT,
        {},
        {
            "text/(token_embedding|head)/(embedding|kernel)": 0.02,
            "connector/.*(kernel|queries)": 0.02,
        },
    ),
    "BT-Adapter": (CLIP, {"btadapter": {"depth": 2}}, {".*/time_embedding": 1.0}),
    "DGL": (
        CLIP,
        {"dgl": {"latent": "transformer", "frames": FRAMES}},
        {"shared_DGL/embedding": 1.0},
    ),
    "CLIP4Clip": (
        CLIP,
        {"clip4clip": {"sim_header": "tightTransf", "layers": 2}},
        {"clip4clip/(position_embedding|pool/kernel)": 0.02},
    ),
    "X-CLIP": (
        CLIP,
        {"xclip": {}},
        {
            "visual/xclip_context/projection/kernel": 1.0,
            "visual/xclip_frames/position_embed.*": 0.02,
        },
    ),
    "MV-Adapter": (
        CLIP,
        {"mv_adapter": {"frames": FRAMES, "bottleneck": 64, "tie": "none"}},
        {
            "visual/.*mv_adapter/position_embedding": 0.01,
            "text/.*mv_adapter/down/kernel": (2 * 128) ** -0.5,
            ".*mv_adapter/block/attention/query/kernel": 64**-0.5,
            ".*mv_adapter/block/mlp/fc1/kernel": 128**-0.5,
        },
    ),
    "PLEVU": (CLIP, {"plevu": {}}, {".*plevu_prompt": 0.01}),
    "VL-Adapter": (BLIP, {"vl_adapter": {"reduction": 2}}, {".*vl_adapter/.*kernel": 0.01}),
    "ST-Adapter": (CLIP, {"st_adapter": {"width": 64}}, {".*st_adapter.*/down/kernel": 0.02}),
    "Adapter": (
        CLIP,
        {"adapter": {"bottleneck": 64, "activation": "sigmoid", "middle": True, "init_std": 0.02}},
        {".*adapter.*/down/kernel": 0.02},
    ),
    "VoP": (
        CLIP,
        {"vop": {"variant": "F+C", "frames_apart": 1}},
        {".*/vop_(prompt|generic|frame)": 0.02},
    ),
    "Vita-CLIP": (
        CLIP,
        {"vita_clip": {"frames": FRAMES}},
        {"visual/vita_clip/time_embedding": 0.02},
    ),
    "MoTE": (CLIP, {"mote": {}}, {"visual/mote/position_embedding": 0.02}),
}


def recorded(model, monkeypatch):
    """{path: how its leaf starts} of every leaf, from shapes alone."""
    found, param = {}, nn.Module.param

    def record(self, name, init, *arguments, **options):
        found["/".join((*self.path, name))] = functools.partial(init, **options), arguments
        return param(self, name, init, *arguments, **options)

    monkeypatch.setattr(nn.Module, "param", record)
    jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    return found


@pytest.mark.parametrize("name", STARTS)
def test_deviations(name, monkeypatch):
    spec, methods, expected = STARTS[name]
    starts = recorded(make_model(spec, methods, FRAMES), monkeypatch)
    for pattern, deviation in expected.items():
        paths = [path for path in starts if re.fullmatch(pattern, path)]
        assert paths, pattern
        for path in paths:
            init, arguments = starts[path]
            x = np.asarray(init(jax.random.key(1), *arguments))
            assert x.size >= 1000, path
            # Five times the standard error of a deviation.
            assert x.std() == pytest.approx(deviation, rel=5 / math.sqrt(2 * x.size)), path
