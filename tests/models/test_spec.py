"""Named sizes match the published and the packaged models."""

import dataclasses
import json
import math

import jax
import pytest

from vlt.data.manifests.resources import resolve
from vlt.model_io.build import abstract_params, make_model
from vlt.model_io.folder import read_model_config
from vlt.models.sizes import SIZES
from vlt.models.spec import ChatSpec, LlamaSpec, QFormerSpec, VisionSpec
from vlt.models.spec_reading import spec_from_dict, with_video

# Counts of OpenAI's CLIPs.
PARAMETERS = {
    "clip_b16": 149_620_737,
    "clip_l14": 427_616_513,
    # Counts of transformers' SiglipModel at the published sizes.
    "siglip2_b16": 375_187_970,
    "siglip2_l16": 881_526_786,
    "siglip2_so400m14": 1_135_463_602,
    "siglip2_so400m14_384": 1_136_008_498,
    "siglip_b16": 203_155_970,
    "siglip_l16": 652_150_786,
    "siglip_so400m14": 877_960_498,
}


@pytest.mark.parametrize("name", ["tiny_clip", "tiny_viclip", "tiny_blip"])
def test_packaged_models_have_the_size_of_their_name(name):
    assert read_model_config(resolve(name)).spec == SIZES[name]


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_published_models(name):
    leaves = jax.tree.leaves(abstract_params(make_model(SIZES[name], {})))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == PARAMETERS[name]


def test_siglips_sizes_are_the_published_ones():
    both = ("b16", "b16_256", "b16_384", "b16_512", "l16", "l16_384", "so400m14")
    new = ("l16_512", "so400m14_384", "g16", "g16_384")
    expected = {f"siglip_{name}" for name in (*both, "so400m14_224")}
    expected |= {f"siglip2_{name}" for name in (*both, *new)}
    assert {name for name in SIZES if name.startswith("siglip")} == expected


@pytest.mark.parametrize("kind", ["captioner", "retriever", "answerer"])
@pytest.mark.parametrize(("size", "clip"), [("b16", "clip_b16"), ("l16", "clip_l14")])
def test_blips_have_a_clips_vision_tower_and_bert(kind, size, clip):
    spec, tower = SIZES[f"blip_{size}_{kind}"], SIZES[clip].visual
    assert (spec.kind, spec.text.source_width) == (kind, tower.width)
    assert (spec.visual.width, spec.visual.layers) == (tower.width, tower.layers)
    assert (spec.text.context, spec.text.layers, spec.text.width) == (512, 12, 768)
    for part in (spec.visual, spec.text):
        assert part.width == 64 * part.heads and part.mlp_width == 4 * part.width


def test_the_narrow_model_is_half_a_large_one():
    large, narrow = SIZES["clip_l14"], SIZES["clip_l14_narrow"]
    assert narrow.embed_dim == large.embed_dim / 2
    for half, whole in ((narrow.visual, large.visual), (narrow.text, large.text)):
        fields = {name: getattr(whole, name) // 2 for name in ("width", "heads", "mlp_width")}
        assert half == dataclasses.replace(whole, **fields)


CHAT = ChatSpec(VisionSpec(16, 8, 16, 3, 2, 32), LlamaSpec(16, 20, 8, 1, 2, 16))
QFORMER = QFormerSpec(4, 8, 2, 2, 16, 16)


@pytest.mark.parametrize("spec", [CHAT, dataclasses.replace(CHAT, qformer=QFORMER)])
def test_sizes_of_a_chat_model_are_read_as_they_are_written(spec):
    connector = "linear" if spec.qformer is None else "qformer"
    spec = dataclasses.replace(spec, connector=connector)
    assert spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"qformer": QFORMER}, "spec.connector='linear' has no spec.qformer"),
        ({"connector": "qformer"}, "spec.connector='qformer' needs its sizes, spec.qformer"),
        ({"connector": "conv"}, "spec.connector='conv'; choose from linear, mlp, qformer"),
        ({"qformer": 3}, "spec.qformer must be {field: value, ...} or null, got 3"),
        ({"tokens": "means"}, "spec.tokens='means' .did you mean 'mean'"),
        ({"tokens": "st_pool"}, "spec.cls='last': means over patches take spec.cls='none'"),
        ({"read": 4}, "spec.read=4: the vision tower has 3 blocks"),
        (
            {"visual": dataclasses.replace(CHAT.visual, pool="mean")},
            "spec.cls='last': a tower without class token",
        ),
        (
            {"visual": dataclasses.replace(CHAT.visual, temporal_frames=4)},
            "spec.tokens='mean': a tower that holds the patches .*takes spec.tokens='frames'",
        ),
        (
            {"connector": "qformer", "qformer": dataclasses.replace(QFORMER, source_width=8)},
            "spec.qformer.source_width=8: the vision tower's width is 16",
        ),
        (
            {"connector": "qformer", "qformer": dataclasses.replace(QFORMER, vocab=20)},
            "spec.qformer.context must be between 2 and",
        ),
        (
            {"text": dataclasses.replace(CHAT.text, heads=8)},
            "spec.text.heads=8: heads of 1 channels; rotary attention turns pairs",
        ),
        ({"text": dataclasses.replace(CHAT.text, end_id=20)}, "spec.text.end_id=20: 0 to 19"),
    ],
)
def test_parts_of_a_chat_model_that_do_not_fit_are_a_sentence(changed, message):
    with pytest.raises(ValueError, match=message):
        spec_from_dict(dataclasses.replace(CHAT, **changed).to_dict())


def test_the_heads_of_every_tower_share_its_width():
    for name, spec in SIZES.items():
        for part in ("visual", "text"):
            tower = vars(spec).get(part)
            assert tower is None or tower.width % tower.heads == 0, (name, part)


def test_patches_cover_the_image_of_every_tower():
    left = {n: s.visual.image_size % s.visual.patch_size for n, s in SIZES.items()}
    published = dict.fromkeys(("siglip_so400m14", "siglip2_so400m14_384"), 384 % 14)
    assert {name: pixels for name, pixels in left.items() if pixels} == published


UMT = SIZES["umt_b16_retriever"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"visual": {"pool": "cls"}}, "positions='sinusoid' has no row for a class token; set"),
        ({"visual": {"positions": "learned"}}, "joint=True needs positions='sinusoid'"),
        ({"visual": {"temporal_frames": 4}}, "joint=True needs .*temporal_frames=0"),
        ({"visual": {"positions": "fixed"}}, "positions='fixed'; choose from learned, sinusoid"),
        ({"text": {"fusion_layer": 12}}, "fusion_layer=12 must be below layers=12"),
        ({"text": {"mask_id": -1}, "masked_words": True}, "mask_id must be between 0 and 30521"),
        ({"kind": "answerer", "embed_dim": 0}, "frame_scores is of a retriever, this is a answer"),
        (
            {
                "kind": "answerer", "embed_dim": 0, "frame_scores": False,
                "text": {"width": 384},
            },
            "text model is 384 wide, the vision tower 768: .* both must be the same",
        ),
    ],
)  # fmt: skip
def test_parts_of_umt_that_do_not_fit_are_a_sentence(changed, message):
    fields = UMT.to_dict()
    for name, value in changed.items():
        fields[name] = fields[name] | value if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=message):
        spec_from_dict(fields)


def test_a_config_says_how_umt_sees_a_video():
    apart = with_video(UMT, {"joint": False, "pool": "mean"}, 12)
    assert (apart.visual.joint, apart.visual.pool) == (False, "mean")
    assert spec_from_dict(apart.to_dict()) == apart and with_video(UMT, {}, 12) == UMT
    for section, message in (
        ({"tokens": "mean"}, "model.video has no field 'tokens'; choose from joint, pool"),
        ({"pool": "max"}, "spec.visual.pool='max'; choose from attention, cls, mean, token_mean"),
        ({"joint": 1}, "spec.visual.joint must be true or false, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            with_video(UMT, section, 12)
