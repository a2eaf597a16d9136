"""Caption metrics against pycocoevalcap's own numbers on MSVD, and their files and command."""

import json
import pathlib
import sys

import pytest

from vlt import score
from vlt.data.manifests.manifest import ManifestError, Record
from vlt.tasks import caption_metrics as module
from vlt.tasks.caption_metrics import (
    METRICS,
    ScoringError,
    caption_metrics,
    has_java,
    light_tokens,
    read_predictions,
    read_references,
    references_of,
    write_predictions,
)

JAVA = pytest.mark.skipif(not has_java(), reason="needs Java")
GOLDEN_NAMES = {"BLEU-1": "Bleu_1", "BLEU-2": "Bleu_2", "BLEU-3": "Bleu_3", "BLEU-4": "Bleu_4"}
GOLDEN_NAMES |= {"METEOR": "METEOR", "ROUGE-L": "ROUGE_L", "CIDEr": "CIDEr"}
TOLERANCE = 1e-11  # in percent

References = dict[str, list[str]]


@pytest.fixture(scope="module")
def golden(shared: pathlib.Path) -> dict:
    return json.loads((shared / "golden/token_mixing/caption_metrics.json").read_text())


@pytest.fixture(scope="module")
def msvd(shared: pathlib.Path) -> References:
    return read_references(shared / "annotations/msvd/test_gt.json")


def protocol(name: str, msvd: References) -> tuple[dict[str, str], References]:
    """Predictions and references for a protocol of the golden file."""
    if name.startswith("A"):
        return {i: texts[0] for i, texts in msvd.items()}, msvd
    if name.startswith("B"):
        return {i: t[0] for i, t in msvd.items()}, {i: t[1:] for i, t in msvd.items()}
    if name.startswith("C"):
        ids = list(msvd)
        return {i: msvd[ids[place - 1]][-1] for place, i in enumerate(ids)}, msvd
    return dict.fromkeys(msvd, "a man is playing a guitar"), msvd


def in_percent(golden: dict[str, float]) -> dict[str, float]:
    return {ours: 100 * golden[name] for ours, name in GOLDEN_NAMES.items() if name in golden}


PROTOCOLS = (
    "A_first_ref_as_pred_refs_all",
    "B_first_ref_as_pred_refs_rest",
    "C_last_ref_of_previous_video",
    "D_constant_a_man_is_playing_a_guitar",
)


@JAVA
@pytest.mark.slow
@pytest.mark.parametrize("name", PROTOCOLS)
def test_all_metrics_on_msvd(golden, msvd, name):
    found = caption_metrics(*protocol(name, msvd))
    assert tuple(found) == METRICS
    assert found == pytest.approx(in_percent(golden["full_set"][name]), rel=0, abs=TOLERANCE)


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", PROTOCOLS[1:])
def test_without_java_the_others_are_the_same_on_msvd(golden, msvd, name):
    found = caption_metrics(*protocol(name, msvd), java=False)
    assert set(found) == set(METRICS) - {"METEOR"}
    expected = in_percent(golden["full_set"][name])
    del expected["METEOR"]
    assert found == pytest.approx(expected, rel=0, abs=TOLERANCE)
    if name.startswith("B"):
        alone = in_percent(golden["full_set_whitespace_lower_tokens_protocol_B"])
        assert found == pytest.approx(alone, rel=0, abs=TOLERANCE)


@pytest.mark.slow
@JAVA
def test_all_metrics_of_ten_videos(golden, msvd):
    ten = {i: texts for i, texts in msvd.items() if int(i) <= 10}
    predictions, references = protocol("B", ten)
    golden = golden["first10_protocol_B"]
    assert predictions == {i: entry["pred"] for i, entry in golden["per_video"].items()}
    expected = golden | {f"Bleu_{n}": score for n, score in enumerate(golden["Bleu"], 1)}
    # Neither the order of the ids nor the case and surroundings of words matter.
    changed = {i: f" {predictions[i].title()}\u2028!" for i in reversed(ten)}
    found = caption_metrics(changed, references)
    assert found == pytest.approx(in_percent(expected), rel=0, abs=TOLERANCE)


@JAVA
def test_ptb_tokens_are_the_golden_ones(golden):
    texts = {str(n): [before] for n, (before, _) in enumerate(golden["ptb_pairs"])}
    expected = {str(n): [after] for n, (_, after) in enumerate(golden["ptb_pairs"])}
    assert module._ptb_tokens(texts) == expected


@JAVA
def test_ptb_tokens_survive_other_line_ends_alphabets_and_nothing():
    texts = {"a": ["one\u2028two\x85three\ftwo", "", "..."], "b": ["ein Café — naïve 猫", " \n"]}
    assert module._ptb_tokens(texts) == {
        "a": ["one two three two", "", ""],
        "b": ["ein café naïve 猫", ""],
    }


def test_light_tokens_are_ptb_s_but_for_contractions_and_signs(golden):
    same = [" ".join(light_tokens(before)) == after for before, after in golden["ptb_pairs"]]
    assert same == [True] * 60 + [False] * 4 + [True]
    assert light_tokens("He said (twice): \"it's 5:30\" -- well-known, isn't it?!") == [
        *("he", "said", "twice", "it's", "5:30", "well-known", "isn't", "it")
    ]


@pytest.mark.slow
@JAVA
def test_a_prediction_of_no_words_scores_nothing_and_stops_nobody():
    references = {"a": ["a man runs", "he runs"], "b": ["a dog sits"], "c": ["a cat eats"]}
    found = caption_metrics({"a": "", "b": " .. ", "c": "a cat eats"}, references)
    assert all(0 < found[name] < 100 for name in METRICS if name != "CIDEr")
    assert found["ROUGE-L"] == pytest.approx(100 / 3) and found["CIDEr"] > 0


def test_without_java_that_is_said(monkeypatch, caplog):
    def absent(*_, **__):
        raise FileNotFoundError("java")

    monkeypatch.setattr(module.subprocess, "run", absent)
    has_java.cache_clear()
    try:
        found = caption_metrics({"a": "one two", "b": "two"}, {"a": ["one"], "b": ["two"]})
    finally:
        has_java.cache_clear()
    assert "METEOR" not in found and found["BLEU-1"] == pytest.approx(200 / 3)
    assert "METEOR is left out, since it needs Java" in caplog.text


def test_java_that_fails_is_an_error_with_what_it_said(tmp_path, monkeypatch):
    (tmp_path / "java").write_text("#!/bin/sh\necho no memory >&2\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    has_java.cache_clear()
    assert not has_java()
    has_java.cache_clear()
    with pytest.raises(RuntimeError, match="the PTB tokenizer failed: no memory"):
        caption_metrics({"a": "one"}, {"a": ["one"]}, java=True)
    with pytest.raises(RuntimeError, match="METEOR failed: no memory"):
        module._meteor({"a": ["one"]}, {"a": ["one"]})


def test_other_ids_than_the_references_are_listed():
    predictions = {f"p{n}": "text" for n in range(7)} | {"both": "text"}
    with pytest.raises(ScoringError) as raised:
        caption_metrics(predictions, {"both": ["text"], "r": ["text"], "s": ["text"]})
    message = str(raised.value)
    assert "7 ids without references: p0, p1, p2, p3, p4, ..." in message
    assert "2 ids without a prediction: r, s" in message
    with pytest.raises(ScoringError, match="1 ids with an empty list of references: both"):
        caption_metrics({"both": "text"}, {"both": []})
    with pytest.raises(ScoringError, match="there are no predictions"):
        caption_metrics({}, {})


def test_references_of_rows_that_share_a_video():
    rows = [("a#0", "a.mp4", "one"), ("b", "b.mp4", "two"), ("a#1", "a.mp4", "three")]
    records = [Record(i, video, (text,), None, None, (), {}, 1) for i, video, text in rows]
    assert references_of(records) == {"a#0": ["one", "three"], "b": ["two"]}


def test_predictions_are_read_as_written(tmp_path):
    predictions = {"v/1": 'a "red" Café\n', "2": ""}
    write_predictions(tmp_path / "p.json", predictions)
    assert read_predictions(tmp_path / "p.json") == predictions
    coco = [{"image_id": 7, "caption": "one"}, {"image_id": "x", "caption": "two"}]
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    assert read_predictions(tmp_path / "coco.json") == {"7": "one", "x": "two"}


def test_references_of_all_forms(shared, tmp_path, msvd):
    assert len(msvd) == 670 and sum(map(len, msvd.values())) == 27_763
    listed = json.loads((shared / "annotations/msvd/test.json").read_text())
    (tmp_path / "mapping.json").write_text(
        json.dumps({entry["video_id"]: entry["caption"] for entry in listed})
    )
    assert read_references(tmp_path / "mapping.json") == msvd
    rows = [
        {"id": str(e["video_id"]), "video": f"{e['video']}.avi", "caption": e["caption"]}
        for e in listed
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_references(tmp_path / "m.jsonl") == msvd


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_predictions, '{"a": "b"', "cannot be read as JSON"),
        (read_predictions, '"text"', "holds neither an object nor a list"),
        (read_predictions, '{"a": ["b"]}', "must have one text each: a"),
        (read_predictions, '[{"image_id": 1, "text": ""}]', "an entry has no 'caption'"),
        (
            read_predictions,
            '[{"image_id": 1, "caption": ""}, {"image_id": 1, "caption": ""}]',
            "1 ids come twice",
        ),
        (read_references, '{"a": 3}', "the captions of a are 3, not texts"),
        (read_references, '{"annotations": [{"caption": "a"}]}', "an entry has no 'image_id'"),
    ],
)
def test_files_of_another_form(tmp_path, read, content, message):
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(ScoringError, match=message):
        read(tmp_path / "file.json")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ScoringError, match="No such file"):
        read_predictions(tmp_path / "none.json")
    with pytest.raises(ManifestError, match="there is no such file"):
        read_references(tmp_path / "none.jsonl")


def test_command_prints_a_table_json_or_what_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "has_java", lambda: False)
    write_predictions(tmp_path / "p.json", {"a": "one two", "b": "two"})
    (tmp_path / "r.json").write_text('{"a": ["one"], "b": ["two", "three"]}')
    arguments = ["score", str(tmp_path / "p.json"), str(tmp_path / "r.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    score.main()
    first, titles, _, values = capsys.readouterr().out.splitlines()
    assert first == "2 captions against 3 references, percent"
    assert titles.split() == list(METRICS)
    assert values.split()[0] == "66.67" and "needs Java" in values
    monkeypatch.setattr(sys, "argv", [*arguments, "--json"])
    score.main()
    assert json.loads(capsys.readouterr().out)["BLEU-1"] == pytest.approx(200 / 3)
    write_predictions(tmp_path / "p.json", {"a": "one"})
    with pytest.raises(SystemExit, match="error: 1 ids without a prediction: b"):
        score.main()


REFERENCES = {"a": ["a man runs away"], "b": ["a dog sits", "the dog sat down"]}
PREDICTIONS = {"a": "a man runs", "b": "a dog"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat \ud83d", r"of a is not UTF-8 text: character 7 is \\ud83d"),
        ("nul\0", "of a is not text: character 4 is a NUL"),
        ("word " * 2001, "of a has 2,001 words, more than 2,000"),
    ],
)
def test_texts_that_cannot_be_scored_are_named(text, message):
    with pytest.raises(ScoringError, match=f"a prediction {message}"):
        caption_metrics(PREDICTIONS | {"a": text}, REFERENCES, java=False)
    with pytest.raises(ScoringError, match=f"a reference {message}"):
        caption_metrics(PREDICTIONS, REFERENCES | {"a": ["fine", text]}, java=False)


def test_references_without_a_word_are_an_error():
    with pytest.raises(ScoringError, match="no reference holds a word"):
        caption_metrics({"a": "one"}, {"a": ["..."]}, java=False)
    found = caption_metrics({"a": "", "b": "one"}, {"a": ["..."], "b": ["one"]}, java=False)
    assert found["BLEU-1"] == pytest.approx(100)


@JAVA
def test_bars_and_line_ends_of_texts_do_not_reach_the_programs_commands():
    # METEOR's own commands are lines of texts separated by three bars.
    texts = {"a": ["a man\r\n|||\u2028runs", "x|||y", "http://h/a|||b"], "b": ["SCORE ||| a\x0b"]}
    found = module._ptb_tokens(texts)
    assert found["a"][:2] == ["a man | | | runs", "x | | | y"]
    assert not any("|||" in text or "\n" in text for listed in found.values() for text in listed)


@JAVA
def test_programs_that_hang_are_ended(monkeypatch):
    monkeypatch.setattr(module, "_patience", lambda texts: 0.05)
    with pytest.raises(RuntimeError, match="PTB tokenizer gave no answer in 0 s"):
        caption_metrics(PREDICTIONS, REFERENCES)
    with pytest.raises(RuntimeError, match="METEOR gave no answer in 0 s"):
        module._meteor(REFERENCES, {each: [text] for each, text in PREDICTIONS.items()})


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_predictions, b'{"a": "x\\ud83d"}', "`a` is not UTF-8 text: character 2"),
        (read_predictions, b'{"a": "x", "a": "y"}', "an object has the key 'a' twice"),
        (read_predictions, b'{"a": NaN}', "NaN is not a JSON number"),
        (read_predictions, b'{"a": "caf\xe9"}', "line 1: not UTF-8"),
        (read_predictions, "{}".encode("utf-16"), "is UTF-16"),
        (read_predictions, b"[" * 100_000, "as JSON: not JSON"),
        (read_predictions, b"<html>", "is a web page"),
        (read_predictions, b'[{"image_id": 1.0, "caption": "x"}]', "'image_id' must be text or a"),
        (read_predictions, b'[{"image_id": null, "caption": "x"}]', "'image_id' must be .*null"),
        (
            read_predictions,
            b'[{"image_id": 1, "caption": ""}, {"image_id": "1", "caption": ""}]',
            "1 ids come twice: 1$",
        ),
        (read_references, b'{"annotations": 3}', "'annotations' must be a list, got int: 3"),
        (read_references, b'{"annotations": "x"}', "'annotations' must be a list"),
        (read_references, b'{"a": ["x", " "]}', "a caption of a must be .* not empty"),
        (read_references, b"{\"a\": \"['x' 'y']\"}", "a caption of a must be a text, is a list"),
        (read_references, b'{"a": ["x\\u0000"]}', r"`a\[0\]` is not text: character 2 is a NUL"),
    ],
)
def test_files_of_strangers(tmp_path, read, content, message):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(ScoringError, match=f"file.json: .*{message}"):
        read(tmp_path / "file.json")


def test_references_written_out_as_a_list_are_read(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"a": "['x', 'y']", "b": "[x]", "c": []}))
    assert read_references(tmp_path / "r.json") == {"a": ["x", "y"], "b": ["[x]"], "c": []}


def test_command_says_which_file_is_wrong(tmp_path, monkeypatch):
    (tmp_path / "p.json").write_text('{"a": "x\\ud83d"}')
    (tmp_path / "r.jsonl").write_text('{"video": "a", "caption": "x\\ud83d"}')
    monkeypatch.setattr(sys, "argv", ["score", str(tmp_path / "p.json"), "none"])
    with pytest.raises(SystemExit, match="error: .*p.json: .*`a` is not UTF-8 text"):
        score.main()
    (tmp_path / "p.json").write_text('{"a": "x"}')
    monkeypatch.setattr(
        sys, "argv", ["score", *map(str, (tmp_path / "p.json", tmp_path / "r.jsonl"))]
    )
    with pytest.raises(SystemExit, match="r.jsonl, line 1: `caption` is not UTF-8 text"):
        score.main()


def test_command_tells_of_java_without_a_traceback(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("METEOR failed: no memory")

    write_predictions(tmp_path / "p.json", PREDICTIONS)
    (tmp_path / "r.json").write_text(json.dumps(REFERENCES))
    monkeypatch.setattr(score, "caption_metrics", fail)
    monkeypatch.setattr(
        sys, "argv", ["score", *map(str, (tmp_path / "p.json", tmp_path / "r.json"))]
    )
    with pytest.raises(SystemExit, match="error: METEOR failed: no memory"):
        score.main()
