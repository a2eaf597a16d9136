"""`vlt embed`, `vlt search` and `vlt classify` as typed on the command line."""

import json

import numpy as np
import pytest
from PIL import Image
from video_files import write_tricky

pytest.importorskip("lancedb")

import vlt
from vlt import classify, cut, embed, search
from vlt.data import moving_shapes

MODEL = "--model=tiny_clip"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = moving_shapes.generate(tmp_path_factory.mktemp("shapes") / "clips", 2).parent
    (folder / "videos" / "zz.mov").write_text("no video\n")
    return folder / "videos"


@pytest.fixture(scope="module")
def index(videos, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("made") / "index")
    assert embed.main([str(videos), MODEL, f"--out={out}", "--window=1s", "--json"]) == 1
    return out


def told(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_embed_tells_of_each_video_and_exports(index, videos, capsys, tmp_path):
    manifest = tmp_path / "some.jsonl"
    names = sorted(videos.iterdir())
    manifest.write_text(
        "".join(json.dumps({"video": str(name), "caption": "a clip"}) + "\n" for name in names[:2])
    )
    files = [tmp_path / name for name in ("feats.npz", "feats.parquet")]
    for file in files:
        asked = [str(manifest), str(names[-1]), MODEL, f"--out={index}", "--window=1s"]
        assert embed.main([*asked, f"--export={file}"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "zz.mov: cannot be opened" in err and "2 of 3 were in it" in err
    with np.load(files[0]) as stored:
        assert len(stored["paths"]) == len(stored["spans"]) == len(stored["vectors"]) == 20
        vectors = stored["vectors"]
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(files[1])
    np.testing.assert_array_equal(rows.column("vector").to_pylist(), vectors)
    assert embed.main([str(videos), MODEL, f"--out={index}", f"--export={files[0]}"]) == 1
    assert "made with" in capsys.readouterr().err


def test_what_is_left_of_a_damaged_video_is_taken_where_that_is_asked_for(tmp_path, capsys):
    film = tmp_path / "film.ts"
    film.write_bytes(write_tricky(tmp_path, "transport.ts").read_bytes()[:20_000])
    asked = [str(film), MODEL, f"--out={tmp_path / 'index'}", "--window=whole", "--json"]
    assert embed.main(asked) == 1
    assert "truncated" in told(capsys)[0]["error"]
    assert embed.main([*asked, "--allow-truncated"]) == 0
    assert 0 < told(capsys)[0]["duration"] < 2
    part = [str(film), "--start=0", "--end=0.4", f"--out={tmp_path / 'parts'}", "--json"]
    assert cut.main(part) == 1
    assert cut.main([*part, "--allow-truncated"]) == 0
    assert [("error" in each) for each in told(capsys)] == [True, False]
    labels = [str(film), MODEL, "--labels=a,b", "--json"]
    assert [classify.main(labels), classify.main([*labels, "--allow-truncated"])] == [1, 0]


def test_vectors_of_bytes_are_searched_and_exported(videos, tmp_path, capsys):
    asked = [str(videos), MODEL, f"--out={tmp_path / 'index'}", "--window=whole", "--dtype=int8"]
    assert embed.main([*asked, f"--export={tmp_path / 'feats.npz'}"]) == 1, "one is no video"
    with np.load(tmp_path / "feats.npz") as stored:
        assert stored["vectors"].dtype == np.int8 and len(stored["vectors"]) == 4
    clip = str(sorted(videos.iterdir())[0])
    capsys.readouterr()
    assert search.main([f"--index={tmp_path / 'index'}", f"--video={clip}", "--json"]) == 0
    best = told(capsys)[0]
    assert best["video"] == clip and best["score"] > 0.999
    with pytest.raises(SystemExit):
        embed.main([*asked, "--neighbours=graph"])
    assert "no graph is made of int8 vectors" in capsys.readouterr().err


def test_search_answers_texts_clips_and_pictures(index, videos, capsys, tmp_path, monkeypatch):
    clip = str(sorted(videos.iterdir())[0])
    frame = vlt.load("tiny_clip").read_videos(clip)[0, 0]
    Image.fromarray(frame).save(tmp_path / "frame.png")
    (tmp_path / "queries.txt").write_text("a red circle\n\na blue square\n")
    asked = [f"--queries={tmp_path / 'queries.txt'}", f"--image={tmp_path / 'frame.png'}"]
    command = ["a cross", *asked, f"--video={clip}", f"--index={index}", "--top=2", "--json"]
    assert search.main(command) == 0
    found = told(capsys)
    queries = ["a cross", "a red circle", "a blue square", clip, str(tmp_path / "frame.png")]
    assert list(dict.fromkeys(each["query"] for each in found)) == queries
    assert found[6]["video"] == clip and found[6]["score"] > 0.9
    assert all(each["end"] > each["start"] >= 0 for each in found)


def test_search_says_what_a_score_means_and_what_is_no_picture(index, tmp_path, capsys):
    assert search.main(["a cross", f"--index={index}", "--calibrate"]) == 0
    assert "too few windows to say what a score means" in capsys.readouterr().out
    (tmp_path / "a.png").write_text("no picture")
    assert search.main([f"--image={tmp_path / 'a.png'}", f"--index={index}"]) == 1
    assert "cannot be read as a picture" in capsys.readouterr().err


def test_what_is_no_query_is_told_and_the_others_are_answered(index, capsys):
    assert search.main(["a " * 20, "a cross", f"--index={index}", "--top=1", "--json"]) == 1
    wrong, found = told(capsys)
    assert wrong["error"].startswith("a query of 22 tokens") and found["query"] == "a cross"


def test_an_absent_index_is_told_and_not_made(tmp_path):
    with pytest.raises(SystemExit, match="no index there; `vlt embed"):
        search.main(["a cross", f"--index={tmp_path}/none"])
    assert not (tmp_path / "none").exists()


def test_classify_gives_probabilities_of_all_labels(videos, capsys, tmp_path):
    (tmp_path / "labels.txt").write_text("red circle\nblue square\ngreen triangle\n")
    clips = sorted(map(str, videos.iterdir()))
    command = [*clips, MODEL, f"--labels={tmp_path / 'labels.txt'}", "--template=a {}"]
    assert classify.main([*command, "--json"]) == 1
    *found, broken = told(capsys)
    assert [each["video"] for each in found] == clips[:-1] and "error" in broken
    for each in found:
        shares = list(each["labels"].values())
        assert len(shares) == 3 and abs(sum(shares) - 1) < 1e-3
        assert shares == sorted(shares, reverse=True)
    assert classify.main([*command, "--csv", "--top=1"]) == 1
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "video,label,probability" and len(rows) == len(found)
    assert rows[0].startswith(f"{clips[0]},{next(iter(found[0]['labels']))},")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("one", "--labels=one (not a file): 1 given; at least two"),
        ("a,,b", "label"),
        ("a,b, a", "--labels=a,b, a: a given more than once"),
        ("a,b --template=c", "must have one"),
        (f"a,{'b ' * 15}", "b b' is a text of 17 tokens in --template, and the model reads 16"),
    ],
)
def test_what_is_no_choice_of_labels_is_told(videos, capsys, labels, message):
    labels, _, template = labels.partition(" --template=")
    command = [str(videos), MODEL, f"--labels={labels}", f"--template={template or '{}'}"]
    assert classify.main(command) == 1
    assert message in capsys.readouterr().err
