import hashlib
import json
import shutil
import socket

import av
import numpy as np
import pytest

from data_pipelines import moving_shapes as door
from vlt.data import moving_shapes
from vlt.data.manifests.resources import resolve
from vlt.data.moving_shapes import clips, grammar, knobs, scene, writer

PAIRS = 60  # ten of each family


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return moving_shapes.generate(tmp_path_factory.mktemp("shapes") / "train", PAIRS).parent


def _rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _decode(path):
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def _segment_centres(frames):
    return np.floor((np.arange(frames) + 0.5) * scene.CLIP_FRAMES / frames).astype(int)


def test_files_hold_the_drawn_frames_and_sampled_twins_are_reversed_bit_for_bit(data):
    rows = _rows(data / "manifest.jsonl")
    for pair in range(0, PAIRS, 7):
        decoded = [_decode(data / r["video"]) for r in rows if r["pair"] == pair]
        drawn = moving_shapes.draw_pair(pair, seed=0, split="train")
        for file, clip in zip(decoded, drawn, strict=True):
            np.testing.assert_array_equal(file, clip.frames)
        for count in (4, 8, 12):
            for moments in (clips.sampled_moments(count), _segment_centres(count)):
                first, twin = (video[moments] for video in decoded)
                np.testing.assert_array_equal(twin, first[::-1])
                assert not np.array_equal(twin, first)


def test_sampler_that_reversal_does_not_map_onto_itself_is_refused(monkeypatch):
    monkeypatch.setattr(scene, "CLIP_FRAMES", 24)  # 23 / 2 rounds to even
    with pytest.raises(ValueError, match="3 of 24"):
        clips.sampled_moments(3)


def test_every_video_of_the_manifest_exists_and_twins_share_all_but_the_caption(data):
    rows = _rows(data / "manifest.jsonl")
    assert len(rows) == 2 * PAIRS
    assert all((data / r["video"]).is_file() for r in rows)
    for first, twin in zip(rows[::2], rows[1::2], strict=True):
        assert first["caption"] != twin["caption"]
        assert (first["order"], twin["order"]) == ("forward", "reversed")
        for column in ("pair", "family", "appearance"):
            assert first[column] == twin[column]
    assert {r["family"] for r in rows} == set(scene.FAMILIES)


def test_held_out_combinations_never_occur_in_training():
    train, test = (
        {
            track.look
            for index in range(600)
            for track in clips._draw(index, seed, split, scene.FAMILIES)[0].tracks
        }
        for seed, split in ((0, "train"), (1, "test"))
    )
    assert not train & test
    assert (len(train), len(test)) == (36, 12)
    assert {k.colour for k in train} == set(scene.COLOURS)
    assert {k.shape for k in train} == set(scene.SHAPES)


def test_same_seed_same_bytes_and_a_larger_set_begins_with_the_smaller(tmp_path):
    small, large, other = (
        moving_shapes.generate(tmp_path / name, pairs, seed=seed).parent
        for name, pairs, seed in (("small", 6, 3), ("large", 7, 3), ("other", 6, 4))
    )
    rows = [(d / "manifest.jsonl").read_text() for d in (small, large, other)]
    assert rows[1].startswith(rows[0]) and rows[2] != rows[0]
    for video in (small / "videos").iterdir():
        assert video.read_bytes() == (large / "videos" / video.name).read_bytes()


def test_what_a_version_draws_stays():
    """Folders and caches of this version hold these: other pictures or words need a new version."""
    drawn = hashlib.sha256()
    for split in scene.SPLITS:
        for pair in range(12):
            for clip in moving_shapes.draw_pair(pair, 0, split):
                drawn.update(clip.frames.tobytes())
                drawn.update("|".join((clip.caption, clip.motion, clip.appearance)).encode())
                drawn.update(str(clip.questions).encode())
        for index in range(24):
            frame = moving_shapes.draw_frame(index, 0, split)
            drawn.update(frame.picture.tobytes() + f"{frame.caption}|{frame.place}".encode())
            drawn.update(str(frame.questions).encode())
    pictures, captions = moving_shapes.static_set(30)
    drawn.update(pictures.tobytes() + "|".join(captions).encode())
    assert (writer.VERSION, drawn.hexdigest()[:16]) == (7, "68f2f70b23e6c08a")


def test_galleries_hold_no_twins_and_distinct_captions(data):
    gallery, looks = (_rows(data / f"{name}.jsonl") for name in ("gallery", "appearance"))
    for rows in (gallery, looks):
        assert len({r["pair"] for r in rows}) == len(rows) > 30
        assert len({r["caption"] for r in rows}) == len(rows)
    assert len({(r["family"], r["appearance"]) for r in gallery}) == len(gallery)
    assert {r["order"] for r in gallery} == {"forward", "reversed"}
    assert all(r["caption"] == r["appearance"] for r in looks)


def test_existing_folder_is_kept_if_the_same_and_refused_if_not(data, tmp_path):
    before = (data / "manifest.jsonl").stat().st_mtime_ns
    assert moving_shapes.generate(data, PAIRS).stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match='"count": 61'):
        moving_shapes.generate(data, PAIRS + 1)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="no moving shapes"):
        moving_shapes.generate(tmp_path, 1)


def test_interrupted_generation_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    def full_disk(folder):
        raise OSError("no space left")

    monkeypatch.setattr(grammar, "write_tokenizer", full_disk)
    with pytest.raises(OSError, match="no space left"):
        moving_shapes.generate(tmp_path / "out", 1)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_may_make_the_same_set_at_once(tmp_path, monkeypatch):
    write = writer._write

    def write_after_another(folder, parameters):
        write(folder, parameters)
        shutil.copytree(folder, tmp_path / "out")

    monkeypatch.setattr(writer, "_write", write_after_another)
    assert moving_shapes.generate(tmp_path / "out", 1).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_cached_sets_lie_in_the_folder_that_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.setenv("VLT_CACHE", str(tmp_path))
    first, second = (moving_shapes.cached(pairs, split="test") for pairs in (1, 2))
    assert first != second and first.is_relative_to(tmp_path) and second.is_file()


def test_command_line(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["moving_shapes", *arguments])
        door.main()

    out = str(tmp_path / "out")
    run("--out", out, "--count", "2", "--split", "test", "--families", "orbit", "size")
    assert capsys.readouterr().out.endswith("manifest.jsonl\n")
    families = [r["family"] for r in _rows(tmp_path / "out/manifest.jsonl")]
    assert families == ["orbit", "orbit", "size", "size"]
    with pytest.raises(SystemExit):
        run("--out", out, "--count", "3")
    assert "choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("family", scene.FAMILIES)
def test_first_caption_tells_the_motion_of_the_drawn_frames(family):
    drawn, _ = clips._draw(0, 5, "all", [family])
    frames = scene.render(drawn, range(scene.CLIP_FRAMES)).astype(int)
    shown = np.abs(frames - scene.BACKGROUNDS[drawn.background]).sum(-1) > 30
    area = shown.sum((1, 2))
    caption = grammar.clip_captions(drawn)[0]
    y, x = (
        np.array([np.argwhere(s)[:, axis].mean() if s.any() else -1 for s in shown])
        for axis in (0, 1)
    )
    if family == "horizontal":
        assert "moves right" in caption and x[-1] - x[0] >= 14 and abs(y[-1] - y[0]) <= 1
    elif family == "vertical":
        assert "moves down" in caption and y[-1] - y[0] >= 14 and abs(x[-1] - x[0]) <= 1
    elif family == "size":
        assert "grows" in caption and area[-1] > 4 * area[0] and np.all(np.diff(area) >= 0)
    elif family == "presence":
        assert "appears" in caption and area[0] == 0 and area[-1] > 0
    elif family == "orbit":  # with y downwards, increasing angle is clockwise
        turn = np.diff(np.unwrap(np.arctan2(y - 15.5, x - 15.5)))
        assert "turns clockwise" in caption and np.all(turn > 0)
    else:
        names = [f"{t.look.colour} {t.look.shape}" for t in drawn.tracks]
        assert caption.index(names[0]) < caption.index("then") < caption.index(names[1])
        assert 0 == area[0] < area[12] < area[-1]


def test_shapes_of_a_sequence_never_touch():
    for index in range(200):
        drawn, _ = clips._draw(index, 0, "all", ["sequence"])
        first, second = drawn.tracks
        alone = [
            scene.render(scene.Scene("sequence", "black", (t,)), [24])[0].any(-1)
            for t in (first, second)
        ]
        assert not np.any(alone[0] & alone[1])
        assert first.look.colour != second.look.colour and first.look.shape != second.look.shape


def test_drawn_frames_have_both_kinds_of_captions_and_true_appearance():
    drawn = [moving_shapes.draw_frame(index, seed=0, split="train") for index in range(300)]
    frames = np.stack([frame.picture for frame in drawn])
    assert frames.shape == (300, 32, 32, 3) and frames.dtype == np.uint8
    uniform = np.array([(f == f[0, 0]).all() for f in frames])
    verbs = {word for pair in grammar.VERBS.values() for verb in pair for word in verb.split()}
    assert all(verbs & set(frame.caption.replace(",", "").split()) for frame in drawn)
    empty = np.array([frame.appearance.startswith("an empty") for frame in drawn])
    np.testing.assert_array_equal(uniform, empty)
    assert empty.any()
    for frame in drawn:
        if frame.appearance.startswith("an empty"):
            assert tuple(frame.picture[0, 0]) == scene.BACKGROUNDS[frame.appearance.split()[2]]
    captions = [text for frame in drawn for text in (frame.caption, frame.appearance)]
    used = {word for c in captions for word in c.replace(",", "").split()}
    assert used == set(grammar.VOCABULARY) - {"<pad>", "<unk>", "<start>", "<end>", ","}


def test_place_is_the_quarter_of_the_picture_that_a_lone_shape_is_in():
    quarters = set()
    for index in range(200):
        frame = moving_shapes.draw_frame(index, seed=0, split="train")
        if " and " in frame.appearance or frame.appearance.startswith("an empty"):
            assert frame.place == frame.appearance
            continue
        looks, background = frame.appearance.split(" on ")
        quarter = frame.place.removeprefix(looks).removesuffix(f" on {background}").split()
        shown = np.abs(frame.picture.astype(int) - scene.BACKGROUNDS[background.split()[1]]).sum(-1)
        y, x = (axis.mean() + 0.5 for axis in np.nonzero(shown > 30))
        if min(abs(x - 16), abs(y - 16)) > 1:  # shapes are drawn centred only to within a pixel
            assert quarter == ["down" if y > 16 else "up", "right" if x > 16 else "left"]
            quarters.add(tuple(quarter))
    assert len(quarters) == 4


def test_drawn_frames_come_in_twins():
    first, second = (moving_shapes.draw_frame(i, seed=0, split="train") for i in (6, 7))
    a, b = (moving_shapes.draw_pair(3, seed=0, split="train")[i].caption for i in (0, 1))
    assert (first.caption, second.caption) == (a, b)


def test_frames_and_stills_become_files_of_one_frame(tmp_path):
    for content, columns in (
        ("frames", {"caption", "appearance", "place", "pair", "family"}),
        ("stills", {"caption"}),
    ):
        manifest = moving_shapes.generate(tmp_path / content, 20, content=content)
        rows = _rows(manifest)
        assert len(rows) == 20 and all(row.keys() == columns | {"video"} for row in rows)
        video = _decode(manifest.parent / rows[0]["video"])
        assert video.shape == (1, 32, 32, 3)
    assert len({row["caption"] for row in rows}) == 20
    with pytest.raises(ValueError, match="'films'.*clips, frames, stills"):
        moving_shapes.generate(tmp_path / "other", 20, content="films")


def test_static_set_is_distinct_and_says_when_a_split_has_too_few():
    frames, captions = moving_shapes.static_set(200)
    assert frames.shape == (200, 32, 32, 3) and len(set(captions)) == 200
    assert not any(c.startswith("an empty") for c in captions)
    with pytest.raises(ValueError, match="'test' has fewer than 900"):
        moving_shapes.static_set(900, split="test")


def test_tokenizer_loads_offline_knows_every_caption_and_ends_in_the_highest_id(data, monkeypatch):
    def no_network(*_):
        raise AssertionError("tried the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer", local_files_only=True)
    vocabulary = moving_shapes.VOCABULARY
    assert tokenizer.convert_tokens_to_ids(list(vocabulary)) == list(range(len(vocabulary)))
    captions = {c for r in _rows(data / "manifest.jsonl") for c in (r["caption"], r["appearance"])}
    captions |= {f"an empty {b} background" for b in scene.BACKGROUNDS}
    for ids in tokenizer(sorted(captions))["input_ids"]:
        assert len(ids) <= moving_shapes.CONTEXT and tokenizer.unk_token_id not in ids
        assert ids[0] == len(vocabulary) - 2 and np.argmax(ids) == len(ids) - 1
    assert tokenizer.unk_token_id in tokenizer("a red zebra")["input_ids"]


def test_unknown_split_or_family_is_named(tmp_path):
    with pytest.raises(ValueError, match="'valid'.*train, test, all"):
        moving_shapes.generate(tmp_path / "a", 1, split="valid")
    with pytest.raises(ValueError, match="'zoom'.*horizontal"):
        moving_shapes.generate(tmp_path / "a", 1, families=["zoom"])
    with pytest.raises(ValueError, match="count must be >= 1 .* got 0"):
        moving_shapes.generate(tmp_path / "a", 0)


def test_shapes_are_named_from_left_to_right_whatever_came_first():
    first_is_left = set()
    for index in range(40):
        drawn, _ = clips._draw(index, 0, "all", ["sequence"])
        a, b = (track.x[0] for track in drawn.tracks)
        if abs(a - b) < abs(drawn.tracks[0].y[0] - drawn.tracks[1].y[0]):
            continue
        left, right = sorted(drawn.tracks, key=lambda track: track.x[0])
        words = grammar.appearance(drawn)
        assert words.index(f"{left.look.colour} {left.look.shape}") < words.index(" and ")
        assert words.index(" and ") < words.index(f"{right.look.colour} {right.look.shape}")
        first_is_left.add(bool(a < b))
    assert first_is_left == {True, False}


def test_knobs_change_pictures_alone():
    """Captions, families and paths match the plain pair, and twins stay reversals."""
    for knob in ("noise=24", "distractors=2", "motion=0.4"):
        turned = moving_shapes.Knobs.parse([knob])
        for pair in range(len(scene.FAMILIES)):
            plain = moving_shapes.draw_pair(pair, seed=0, split="train")
            first, twin = moving_shapes.draw_pair(pair, seed=0, split="train", knobs=turned)
            np.testing.assert_array_equal(twin.frames, first.frames[::-1])
            assert [first.caption, twin.caption] == [clip.caption for clip in plain]
            moves = "motion" not in knob or first.family in knobs.STRETCHED
            assert moves != np.array_equal(first.frames, plain[0].frames), (knob, pair)


def test_still_shapes_stand_still_and_have_other_looks():
    turned = moving_shapes.Knobs(distractors=3)
    drawn = scene.draw_scene(np.random.default_rng(0), "horizontal", scene.looks("train"))
    changed = turned.applied(drawn, scene.looks("train"), (0, 0, 0))
    (named,) = changed.tracks
    assert len(changed.still) == 3 and changed.tracks == drawn.tracks
    for track in changed.still:
        assert track.look.colour != named.look.colour and track.look.shape != named.look.shape
        assert np.ptp(track.x) == np.ptp(track.y) == np.ptp(track.radius) == 0


def test_a_slower_motion_is_the_middle_of_the_path():
    drawn = scene.draw_scene(np.random.default_rng(0), "vertical", scene.looks("train"))
    slow = moving_shapes.Knobs(motion=0.5).applied(drawn, scene.looks("train"), (0,)).tracks[0]
    path = drawn.tracks[0].y
    assert np.ptp(slow.y) == pytest.approx(0.5 * np.ptp(path))
    assert slow.y.mean() == pytest.approx(path.mean())


def test_harder_clips_are_a_data_set_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("VLT_CACHE", str(tmp_path))
    file = resolve("moving_shapes:clips,noise=24,motion=0.5:train:2")
    assert file.parent.name == "clips,noise=24,motion=0.5-train-2-seed0"
    assert "Made harder by --noise 24 --motion 0.5" in (file.parent / "README.md").read_text()
    assert json.loads((file.parent / "dataset.json").read_text())["knobs"]["noise"] == 24


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clips,nose=2", "no knob 'nose'.*noise.*choose from distractors, noise"),
        ("clips,noise=loud", "noise='loud': must be a number"),
        ("clips,distractors=9", "distractors must be 0 to 4, got 9"),
        ("clips,motion=0", "motion must be above 0"),
        ("actions,noise=2", "knobs of clips alone, not of actions"),
    ],
)
def test_knobs_that_do_not_fit_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        resolve(f"moving_shapes:{name}:train:2")
