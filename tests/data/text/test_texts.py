"""What counts as one text, as several texts and as a label, whichever tool wrote it."""

import contextlib
import json
import time

import numpy as np
import pytest

from vlt.data.text.texts import (
    checked_label,
    checked_text,
    checked_texts,
    look,
    look_alikes,
    printable,
    trimmed,
    wrong_characters,
)

LISTS = (["a cat"], ["a cat", "a dog runs"], ["it's", 'he says "no"'], ["café \U0001f600", "b, c"])


@pytest.mark.parametrize("texts", LISTS)
@pytest.mark.parametrize("write", [str, json.dumps, lambda listed: str(tuple(listed))])
def test_a_list_that_python_or_json_wrote_is_read(texts, write):
    assert checked_texts(write(texts)) == tuple(texts)
    assert checked_texts(f" {write(texts)}\n") == tuple(texts)


@pytest.mark.parametrize(
    "text",
    [
        "[music] a man sings",
        "[music]",
        "[a cat, a dog]",
        "['tis the season]",
        '("Hello!")',
        '["No"] says he',
        '["Hello", he said]',
        "(a man) 'sings', then ['leaves']",
        "'a' or 'b'",
        "{laughs}",
        "b",
        "a nan bread",
        "none",
        "7",
    ],
)
def test_a_caption_that_begins_like_a_list_stays_one_text(text):
    assert checked_texts(text) == (text,)


@pytest.mark.parametrize(
    "value",
    [
        str(np.array(["a cat", "a dog"])),
        repr(np.array(["a cat", "a dog"], object)),
        "['a cat'\n 'a dog']",
        "['a cat', nan]",
        "['a cat', None]",
        '["a cat", null]',
        "['a cat', 'a do",
        "[['a cat']]",
        "{'a cat', 'a dog'}",
        '{"text": "a cat"}',
        str(b"a cat"),
        "[]",
        "[101, 2023, 102]",
        str(np.array([0.5, 1.0])),
        ["a cat", "['a dog', 'runs']"],
    ],
)
def test_what_looks_like_a_list_and_is_none_is_refused(value):
    with pytest.raises(ValueError, match="written out"):
        checked_texts(value)


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "<NA>", "null", " nan ", "NaT"])
def test_what_tools_write_for_missing_values_is_no_text(text):
    for check in (checked_text, checked_texts, checked_label):
        with pytest.raises(ValueError, match="where a value is missing"):
            check(text)


@pytest.mark.parametrize(
    "value", [None, 3, 1.5, True, b"a", "", " \t", "\u200b\ufeff", {}, [], ["", "a"], [3]]
)
def test_what_is_no_text(value):
    with pytest.raises(ValueError, match="and not empty, got "):
        checked_texts(value)


def test_space_and_characters_of_no_width_are_taken_off_around():
    assert trimmed("\u200b \u00a0a\u00a0 b\ufeff\n") == "a\u00a0 b"
    assert checked_texts([" a ", "\u3000b"]) == ("a", "b")
    assert checked_label("run ") == checked_label("run") == "run"


def test_halves_of_surrogate_pairs_and_nul_are_named_with_their_place():
    assert not wrong_characters("whole \U0001f600")
    assert "character 7 is \\ud83d, half of a surrogate pair" in wrong_characters("a cat \ud83d")
    assert "character 3 is a NUL" in wrong_characters("ab\0")
    for text in ("a\ud83d", "a\0", "['a\\ud83d']", '["a\\u0000"]'):
        with pytest.raises(ValueError, match="half of a surrogate pair|is a NUL"):
            checked_texts(text)


@pytest.mark.parametrize("value", ["0.0", "1.", "-2.50", ".5", "1e3", "1.0E+5", 1.0, float("nan")])
def test_numbers_with_a_point_are_no_labels(value):
    with pytest.raises(ValueError, match="with a point"):
        checked_label(value)


def test_labels():
    names = [0, 12, "7", "v 1.0", "1.2.3", "running (fast)", "[something] up"]
    assert [*map(checked_label, names)] == [*map(str, names)]
    for value in (True, None, ["run"], "run\nfast", "run\x1b[2J", "['run']", "run\u202efast"):
        with pytest.raises(ValueError, match="must be"):
            checked_label(value)


@pytest.mark.parametrize(
    "other", ["Run fast", "run  fast", "run\u00a0fast", "runfast", "run\u200b fast", "ＲＵＮ fast"]
)
def test_look_alikes(other):
    assert look_alikes(["walk", "run fast", "walk", other]) == ("run fast", other)


def test_names_that_differ_are_no_look_alikes():
    assert look("caf\u00e9") == look("cafe\u0301") != look("cafe")
    assert look_alikes(["run", "runs", "ran", "run", "run_"]) is None


def test_printable_text_moves_no_cursor_and_is_json_inside_of_json():
    written = "a\\u001b[2Jb\\u009b\\u000a\\u202e\\udcff é猫"
    assert printable("a\x1b[2Jb\x9b\n\u202e\udcff é猫") == written
    text = "\x1b \x9b \udcff é"
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "['a" + "\\" * 200_000,
        "['a'" + " " * 200_000 + "x",
        "['a'" + "] " * 100_000 + "x",
        "['" + "a', '" * 50_000,
        "[1" + " " * 200_000 + "x",
        "(" * 100_000 + "'a'" + "," * 100_000,
        "a" + " " * 200_000 + "b",
    ],
    ids=range(8),
)
def test_hostile_texts_take_no_time(text):
    started = time.process_time()
    with contextlib.suppress(ValueError):
        checked_texts(text)
    assert time.process_time() - started < 1
