"""Which kind of BLIP a file holds, from the names of its tensors alone."""

import re

import pytest

from vlt.convert.errors import ConversionError
from vlt.convert.layouts.blip import BLIP
from vlt.convert.layouts.clip import OPENAI
from vlt.convert.layouts.kinds import choose_kind

BOTH = "visual_encoder.cls_token"
EVERY = sorted({part for kind in BLIP.kinds.values() for part in kind.parts})


def chosen(parts, asked=None) -> str | None:
    return choose_kind(BLIP, [BOTH, *(f"{part}.weight" for part in parts)], asked, "x.pth").kind


@pytest.mark.parametrize("kind", BLIP.kinds)
def test_its_own_parts_and_no_others_tell_a_kind(kind):
    parts = BLIP.kinds[kind].parts
    assert chosen(parts) == chosen(parts, kind) == kind
    with pytest.raises(ConversionError, match="holds no part .kind unknown"):
        chosen([])
    for other in BLIP.kinds.keys() - {kind}:
        with pytest.raises(ConversionError, match=rf"\(kind {kind}\)\n  kind {other}: "):
            chosen(parts, other)


@pytest.mark.parametrize("kind", BLIP.kinds)
def test_what_holds_all_parts_is_what_is_asked_for(kind):
    assert chosen(EVERY, kind) == kind
    with pytest.raises(ConversionError, match=r"set kind=captioner\|retriever\|answerer"):
        chosen(EVERY)


def test_of_all_parts_those_of_other_kinds_are_left_out():
    family = choose_kind(BLIP, [f"{part}.weight" for part in EVERY], "captioner", "x.pth")
    left_out = re.compile(family.left_out)
    assert left_out.fullmatch("itm_head.weight") and left_out.fullmatch("vision_proj.bias")
    assert not any(left_out.fullmatch(rule.source) for rule in family.rules)


def test_what_is_missing_and_what_is_too_much_is_named():
    with pytest.raises(ConversionError) as raised:
        chosen(["text_encoder", "vision_proj", "itm_head", "text_decoder"])
    assert str(raised.value).splitlines() == [
        "x.pth: holds itm_head, text_decoder, text_encoder, vision_proj (kind unknown)",
        "  kind captioner: unexpected itm_head, text_encoder, vision_proj",
        "  kind retriever: missing text_proj; unexpected text_decoder",
        "  kind answerer: unexpected itm_head, vision_proj",
    ]


def test_a_layout_of_one_kind_has_no_other():
    assert choose_kind(OPENAI, ["anything"], None, "x.pt") is OPENAI
    with pytest.raises(ConversionError, match="captioner"):
        choose_kind(OPENAI, ["anything"], "captioner", "x.pt")
