"""A BLIP's config.json, written and read."""

import dataclasses
import json

import pytest

from vlt.convert.errors import ConversionError
from vlt.convert.layouts.huggingface_blip import blip_json, blip_spec, stated_kind
from vlt.models.sizes import SIZES
from vlt.models.spec import BLIP_KINDS


def written(folder, spec, **changes):
    config = blip_json(spec)
    (folder / "config.json").write_text(json.dumps(config | changes))
    return config


@pytest.mark.parametrize("kind", BLIP_KINDS)
def test_what_is_written_is_read(kind, tmp_path):
    spec = SIZES[f"blip_b16_{kind}"]
    config = written(tmp_path, spec)
    assert stated_kind(config) == kind
    assert blip_spec(tmp_path, kind, {}) == (spec, [])


def test_no_kind_is_stated_by_other_models_or_other_classes():
    config = blip_json(SIZES["blip_b16_retriever"])
    assert stated_kind(config | {"model_type": "clip"}) is None
    assert stated_kind(config | {"architectures": ["BlipModel"]}) is None
    assert stated_kind(config | {"architectures": "BlipForQuestionAnswering"}) is None
    assert stated_kind({"model_type": "blip"}) is None


def test_what_is_unlike_the_original_is_told_and_may_be_set(tmp_path):
    spec = SIZES["blip_b16_captioner"]
    other = dataclasses.replace(spec, visual=dataclasses.replace(spec.visual, norm_eps=1e-5))
    written(tmp_path, other)
    found, notes = blip_spec(tmp_path, "captioner", {})
    assert found == other
    assert notes == ["visual.norm_eps: 1e-05, BLIP's own code has 1e-06 (--set visual.norm_eps)"]
    assert blip_spec(tmp_path, "captioner", {"visual.norm_eps": 1e-6}) == (spec, [])


def test_what_transformers_cannot_have_is_refused(tmp_path):
    spec = SIZES["blip_l16_answerer"]
    with pytest.raises(ConversionError, match="a vision tower as wide as the text's, not 1024 and"):
        blip_json(spec)
    one_token = SIZES["blip_b16_retriever"]
    text = dataclasses.replace(one_token.text, encode_id=one_token.text.decode_id)
    with pytest.raises(ConversionError, match=r"\[ENC\] is 30522, not \[DEC\] \+ 1 \(30523\)"):
        blip_json(dataclasses.replace(one_token, text=text))
    spec = SIZES["blip_b16_captioner"]
    padded = blip_json(spec)["text_config"] | {"pad_token_id": 1}
    written(tmp_path, spec, text_config=padded)
    with pytest.raises(ConversionError, match="pad_token_id is 1, not 0"):
        blip_spec(tmp_path, "captioner", {})
