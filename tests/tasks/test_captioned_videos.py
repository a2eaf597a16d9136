"""`vlt score` on what `vlt caption --json` printed."""

import json
import sys

import pytest

from vlt import score
from vlt.data.video.errors import VideoError
from vlt.inference.printing import print_results
from vlt.tasks import caption_metrics
from vlt.tasks.caption_metrics import ScoringError, read_predictions, write_predictions
from vlt.tasks.captioned_videos import by_reference, common_ids, read_captioned_videos

CAPTIONS = {"v/a.mp4": "one two", "v/b.mp4": "two"}


@pytest.fixture
def printed(tmp_path, capsys):
    """A file of captions as the command prints them, with a video that could not be read."""
    results = [*CAPTIONS.items(), ("v/c.mp4", VideoError("v/c.mp4", "broken"))]
    print_results(results, 3, lambda caption: {"caption": caption}, as_json=True)
    path = tmp_path / "captions.jsonl"
    path.write_text(capsys.readouterr().out)
    return path


def test_lines_of_the_command_are_read(printed, tmp_path):
    assert read_captioned_videos(printed) == CAPTIONS
    for content in ('{"a": "one"}', '[{"image_id": 1, "caption": "x"}]', "{\n", '{"video": "x"}'):
        (tmp_path / "p.json").write_text(content)
        assert read_captioned_videos(tmp_path / "p.json") is None
    write_predictions(tmp_path / "p.json", {"a": "one", "b": "two"})
    assert read_captioned_videos(tmp_path / "p.json") is None
    assert read_predictions(tmp_path / "p.json") == {"a": "one", "b": "two"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video": "d.mp4"}', "line 4: no `video` with its `caption`"),
        ('{"video": "d.mp4", "caption": 3}', "line 4: no `video`"),
        ('{"video": "v/a.mp4", "caption": "x"}', "line 4: 'v/a.mp4' comes twice"),
        ('{"video": "v/c.mp4", "error": "x"}', "line 4: 'v/c.mp4' comes twice"),
        ('{"video', "line 4: not JSON"),
    ],
)
def test_lines_of_another_form_are_named(printed, line, message):
    printed.write_text(printed.read_text() + line + "\n")
    with pytest.raises(ScoringError, match=message):
        read_captioned_videos(printed)


def test_files_have_the_ids_of_rows_paths_or_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": "first", "video": "v/a.mp4"}, {"id": "again", "video": "v/a.mp4"}]
    rows += [{"video": "v/b.mp4"}]
    text = "".join(json.dumps(row | {"caption": "one"}) + "\n" for row in rows)
    (tmp_path / "m.jsonl").write_text(text)
    ids = caption_metrics.read_references(tmp_path / "m.jsonl")
    assert [*ids] == ["first", "v/b.mp4"]
    expected = {"first": "one two", "v/b.mp4": "two"}
    assert by_reference(CAPTIONS, ids, "m.jsonl") == expected
    absolute = {str(tmp_path / path): text for path, text in CAPTIONS.items()}
    assert by_reference(absolute, ids, "m.jsonl") == expected
    named = by_reference(CAPTIONS, {"a": ["x"], "b.mp4": ["x"]}, "r.json")
    assert named == {"a": "one two", "b.mp4": "two"}
    assert by_reference(CAPTIONS, {"z": ["x"]}, "r.json") == CAPTIONS
    with pytest.raises(ScoringError, match="w/a.mp4: another .* has the id 'a'"):
        by_reference({"v/a.mp4": "x", "w/a.mp4": "y"}, {"a": ["x"]}, "r.json")


def test_what_both_have_is_scored_when_asked(printed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(caption_metrics, "has_java", lambda: False)
    references = tmp_path / "r.json"
    references.write_text('{"a": ["one"], "c": ["x"], "d": ["y"], "b": ["two", "three"]}')
    arguments = ["score", str(printed), str(references), "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="2 ids without a prediction: c, d"):
        score.main()
    monkeypatch.setattr(sys, "argv", [*arguments, "--intersection"])
    score.main()
    out, err = capsys.readouterr()
    assert json.loads(out)["BLEU-1"] == pytest.approx(200 / 3)
    assert "scored: 2 of 2 predictions, 2 of 4 references' ids" in err
    with pytest.raises(ScoringError, match="no id in common: predictions have p, references r"):
        common_ids({"p": "x"}, {"r": ["x"]})
