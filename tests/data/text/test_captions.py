"""Text clean-up against BLIP's rules, worked out by hand."""

import pytest

from vlt.data.text.captions import Cleaning, blip_caption, blip_question, umt


@pytest.mark.parametrize(
    ("text", "caption", "question"),
    [
        ("A man's dog isn't happy!", "a man's dog isn't happy", "a man's dog isn't happy"),
        ('He said: (quick) "no"; left.', "he said quick no left", "he said quick no left"),
        ("two-year-old, #1 *star* ~", "two-year-old, 1 star", "two-year-old, 1 star"),
        ("a.b", "a b", "ab"),
        ("  up  and\t\tdown \n", "up and down", "  up  and\t\tdown"),
        ("What is this?", "what is this?", "what is this?"),
        ("...", "", ""),
    ],
)
def test_blip_rules(text, caption, question):
    assert blip_caption(text) == caption
    assert blip_question(text) == question


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("A man's dog, isn't happy?", "a mans dog isnt happy"),
        ("two-year-old/three", "two year old three"),
        ("<person>  sings  \n", "person sings"),
    ],
)
def test_umts_rule(text, clean):
    assert umt(text) == clean


def test_words_after_the_limit_are_cut_after_the_clean_up():
    assert Cleaning("blip_caption", 3)("A (red) circle moves.") == "a red circle"
    assert Cleaning("", 2)("A (red) circle.") == "A (red)"
    assert Cleaning("blip_caption")("A " * 60) == " ".join("a" * 60)
    assert Cleaning()(" As it is. ") == " As it is. "


def test_wrong_rules():
    with pytest.raises(ValueError, match="did you mean 'blip_caption'"):
        Cleaning("blip_captions")
    with pytest.raises(ValueError, match="max_words must be >= 0, got -1"):
        Cleaning("", -1)
