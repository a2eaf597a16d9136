"""Actions of moving shapes: the classes, what their clips show, and the files written."""

import collections
import json
import re

import av
import numpy as np
import pytest

from vlt.data import moving_shapes
from vlt.data.manifests.manifest import read_classes, read_manifest
from vlt.data.manifests.resources import resolve
from vlt.data.moving_shapes import actions, clips, grammar, scene
from vlt.tasks.descriptions import read_descriptions

PAIRS = len(actions.FORWARD)  # every action once
NAMES = {part: actions.classes(part) for part in actions.PARTS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set with every class once in each of two rounds."""
    out = tmp_path_factory.mktemp("actions") / "train"
    return moving_shapes.generate(out, 2 * PAIRS, content="actions").parent


def decoded(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_thirty_classes_of_which_six_are_novel():
    assert len(actions.ACTIONS) == len({action.name for action in actions.ACTIONS}) == 30
    assert [len(NAMES[part]) for part in ("base", "novel")] == [24, 6]
    assert not set(NAMES["base"]) & set(NAMES["novel"])
    assert NAMES["base"][0] == "moves right, then moves left"


def test_parts_are_closed_under_reversal_and_have_every_motion():
    for action in actions.ACTIONS:
        assert action.reversed.reversed == action
        assert action.reversed.part == action.part
    palindromes = [action for action in actions.ACTIONS if action.reversed == action]
    assert len(palindromes) == 6 and len(actions.FORWARD) == 6 + 24 / 2
    assert collections.Counter(action.part for action in palindromes) == {"base": 6}
    every = {word for pair in actions.MOTIONS for word in pair}
    for place in (0, 1):
        assert {name.split(", then ")[place] for name in NAMES["base"]} == every
    assert {word for name in NAMES["novel"] for word in name.split(", then ")} == every


@pytest.mark.parametrize("action", actions.ACTIONS, ids=lambda action: action.name)
def test_every_motion_goes_from_one_end_to_the_other(action):
    ends = [0, actions.HALF, scene.CLIP_FRAMES - 1]
    for axis in {action.first[0], action.second[0]}:
        path = actions._path(np.random.default_rng(0), action, axis)
        assert set(path[ends]) == {path.min(), path.max()} == {0, 1}


def measured(frames: np.ndarray) -> np.ndarray:
    """The shape's centre x, centre y and log area at each moment, [t, 3]."""
    shown = np.abs(frames.astype(int) - frames[0, 0, 0]).sum(-1) > 30
    places = [np.argwhere(picture) for picture in shown]
    return np.array([[*at.mean(0)[::-1], np.log(len(at))] for at in places])


def wanted(motion: str) -> tuple[int, int]:
    """The column of `measured` that a motion changes, and the sign of the change."""
    word = motion.split()[-1]
    column = {"right": 0, "left": 0, "down": 1, "up": 1}.get(word, 2)
    return column, -1 if word in ("left", "up", "shrinks") else 1


@pytest.mark.parametrize("pair", range(PAIRS))
def test_names_tell_the_motions_of_the_drawn_frames(pair):
    frames, shown = actions.draw_action(pair, seed=3, split="all")
    for action, played in zip(shown, (frames, frames[::-1]), strict=False):
        found = measured(played)
        steps = action.name.split(", then ")
        for part, step in zip(
            (found[: actions.HALF + 1], found[actions.HALF :]), steps, strict=True
        ):
            column, sign = wanted(step)
            change = sign * (part[-1] - part[0])
            assert change[column] > (np.log(3) if column == 2 else 12), (action.name, step, change)
            # The pixels drawn may shift the centre of a shape that stays or grows by part of one.
            still = np.delete(np.abs(change), column)[: 2 if column == 2 else 1]
            assert (still < 1.5).all(), (action.name, step, change)


def test_files_are_clips_and_their_reversals_where_those_are_other_actions(folder):
    records = read_manifest(folder / "manifest.jsonl")
    pairs = collections.defaultdict(list)
    for record in records:
        pairs[record.extra["pair"]].append(record)
    reversals = {action.name: action.reversed.name for action in actions.ACTIONS}
    for pair in range(PAIRS):
        frames, _ = actions.draw_action(pair, seed=0, split="train")
        first, *others = pairs[pair]
        np.testing.assert_array_equal(decoded(first.video), frames)
        if reversals[first.label] == first.label:
            assert not others
            np.testing.assert_array_equal(frames, frames[::-1])
            continue
        (twin,) = others
        assert twin.label == reversals[first.label] != first.label
        np.testing.assert_array_equal(decoded(twin.video), frames[::-1])


def test_sampled_frames_of_a_reversal_are_those_of_the_clip_reversed():
    frames, _ = actions.draw_action(1, seed=0, split="train")
    for count in (4, 8, 12):
        moments = clips.sampled_moments(count)
        np.testing.assert_array_equal(frames[::-1][moments], frames[moments][::-1])


def test_without_the_order_of_frames_sixty_percent_is_the_most(folder):
    """With the best guess for each set of frames; all classes have equally many clips."""
    found = {}
    for part in actions.PARTS:
        records = read_manifest(folder / f"{part}.jsonl")
        assert set(collections.Counter(r.label for r in records).values()) == {2}
        labels = collections.defaultdict(collections.Counter)
        for record in records:
            seen = frozenset(frame.tobytes() for frame in decoded(record.video))
            labels[seen][record.label] += 1
        right = sum(max(counts.values()) for counts in labels.values())
        found[part] = right, len(records)
    assert found == {"base": (30, 48), "novel": (6, 12)}


def test_manifests_of_the_parts_hold_their_classes_and_descriptions(folder):
    whole = (folder / "manifest.jsonl").read_text().splitlines()
    parts = [(folder / f"{part}.jsonl").read_text().splitlines() for part in actions.PARTS]
    assert [*map(len, parts)] == [48, 12] and sorted(whole) == sorted(sum(parts, []))
    for part, names in NAMES.items():
        assert read_classes(folder / f"{part}_classes.txt") == names
        assert {r.label for r in read_manifest(folder / f"{part}.jsonl")} == set(names)
        for kind in ("spatial", "temporal"):
            found = read_descriptions(folder / f"{part}_{kind}.json", names)
            assert all(len(own) == 2 for own in found)


@pytest.mark.parametrize(
    ("name", "places", "steps"),
    [
        ("moves right, then moves down", ["left up", "right down"], ["moves right", "moves down"]),
        ("shrinks, then moves left", ["right", "left"], ["shrinks", "moves left"]),
        ("moves up, then moves down", ["down", "down"], ["moves up", "moves down"]),
        ("grows, then shrinks", ["", ""], ["grows", "shrinks"]),
    ],
)
def test_descriptions_tell_where_the_shape_is_and_what_it_does(name, places, steps):
    told = [re.sub(" +", " ", f"a circle {place} on a black background") for place in places]
    assert actions.DESCRIPTIONS["spatial"](name) == told
    assert actions.DESCRIPTIONS["temporal"](name) == steps


def test_tokenizer_knows_every_word(folder):
    texts = [name for names in NAMES.values() for name in names]
    texts += [
        sentence
        for name in texts
        for told in actions.DESCRIPTIONS.values()
        for sentence in told(name)
    ]
    words = [text.replace(",", " ,").split() for text in texts]
    assert {word for listed in words for word in listed} <= set(grammar.VOCABULARY)
    assert max(map(len, words)) + 2 <= grammar.CONTEXT
    assert (folder / "tokenizer/tokenizer.json").is_file()


def test_same_seed_same_bytes_and_a_larger_set_begins_with_the_smaller(tmp_path):
    small, large, other = (
        moving_shapes.generate(tmp_path / name, count, seed=seed, content="actions").parent
        for name, count, seed in (("small", 4, 3), ("large", 5, 3), ("other", 4, 4))
    )
    rows = [(made / "manifest.jsonl").read_text() for made in (small, large, other)]
    assert rows[1].startswith(rows[0])
    videos = sorted(path.name for path in (small / "videos").iterdir())
    assert videos == sorted(path.name for path in (other / "videos").iterdir())
    for name in videos:
        first, again, unlike = (made / "videos" / name for made in (small, large, other))
        assert first.read_bytes() == again.read_bytes() != unlike.read_bytes()


def test_held_out_looks_are_those_of_the_other_clips(monkeypatch):
    drawn = []
    monkeypatch.setattr(scene, "render", lambda found, moments: drawn.append(found))
    for split in ("train", "test"):
        drawn.clear()
        for pair in range(300):
            actions.draw_action(pair, seed=0, split=split)
        assert {found.tracks[0].look for found in drawn} == set(scene.looks(split))
    with pytest.raises(ValueError, match="'valid'.*train, test, all"):
        actions.draw_action(0, seed=0, split="valid")


def test_names_in_configs_resolve_to_files_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLT_CACHE", str(tmp_path))
    path = resolve("moving_shapes:actions:test:2:base.jsonl")
    assert path.is_file() and path.is_relative_to(tmp_path)
    for row in map(json.loads, path.read_text().splitlines()):
        assert row["label"] in NAMES["base"] and (path.parent / row["video"]).is_file()
