"""Clips and single frames of moving shapes in memory, each with captions that are true of it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vlt.data.moving_shapes import grammar, scene
from vlt.data.moving_shapes.knobs import Knobs
from vlt.data.moving_shapes.questions import Question, questions

SAMPLED_FRAMES = 8  # that an image model sees of a clip; draw_frame takes one of the last 3
LAST_FRAMES = 3


@dataclasses.dataclass(frozen=True)
class Clip:
    """uint8 RGB frames [CLIP_FRAMES, SIZE, SIZE, 3] and what is said about them.

    Attributes:
        caption: what happens, so it differs from the twin's.
        motion: the same without looks: "moves right".
        appearance: what the clip shows, the same for both twins.
        pair: index of the pair of twins.
        questions: questions about the clip, with answers.
    """

    frames: np.ndarray
    caption: str
    motion: str
    appearance: str
    family: str
    pair: int
    questions: tuple[Question, ...]


def sampled_moments(frames: int) -> np.ndarray:
    """round(linspace(0, CLIP_FRAMES - 1, frames)): a reversal maps these frames onto themselves.

    Raises:
        ValueError: the samples of the reversed clip would not be the clip's samples reversed.
    """
    last = scene.CLIP_FRAMES - 1
    moments = np.rint(np.linspace(0, last, frames)).astype(int)
    if not np.array_equal(last - moments[::-1], moments):
        raise ValueError(f"{frames} of {last + 1} frames are not symmetric under reversal")
    return moments


PLAIN = Knobs()


def draw_pair(
    pair: int,
    seed: int,
    split: str,
    families: Sequence[str] = scene.FAMILIES,
    knobs: Knobs = PLAIN,
) -> tuple[Clip, Clip]:
    """Pair number `pair` of a data set: a clip and its twin, which has its frames reversed.

    With the same families and knobs, the pair depends on (seed, split, pair) only, so a larger data
    set begins with the smaller one.

    Raises:
        ValueError: unknown split or family.
    """
    drawn, _ = _draw(pair, seed, split, families)
    which = (seed, scene.SPLITS.index(split), pair)
    drawn = knobs.applied(drawn, scene.looks(split), which)
    frames = scene.render(drawn, range(scene.CLIP_FRAMES))
    captions = grammar.clip_captions(drawn)
    assert not np.array_equal(frames, frames[::-1]), f"pair {pair} equals its own reversal"
    assert captions[0] != captions[1], f"pair {pair}: both twins are called {captions[0]!r}"
    look = grammar.appearance(drawn)
    motions = grammar.VERBS[drawn.family]
    first, second = (
        Clip(played, caption, motion, look, drawn.family, pair, asked)
        for played, caption, motion, asked in zip(
            (frames, frames[::-1]), captions, motions, questions(drawn), strict=True
        )
    )
    return first, second


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame, uint8 RGB [SIZE, SIZE, 3], with what happens in its clip, what it shows and
    where, and questions about both."""

    picture: np.ndarray
    caption: str
    appearance: str
    place: str
    family: str
    questions: tuple[Question, ...]


def draw_frame(
    index: int, seed: int, split: str, families: Sequence[str] = scene.FAMILIES
) -> Frame:
    """Frame number `index` of a set to pre-train an image-language model on.

    Frames 2k and 2k + 1 come from a clip and its reversal, each at one of the last 3 of 8 sampled
    moments. Side by side in a batch they make a model see where things are: their looks agree, and
    only their places tell which caption is whose.

    Raises:
        ValueError: unknown split or family.
    """
    late = sampled_moments(SAMPLED_FRAMES)[-LAST_FRAMES:]
    pair, backward = divmod(index, 2)
    drawn, rng = _draw(pair, seed, split, families)
    moment = int(rng.choice(late, 2)[backward])
    if backward:
        moment = scene.CLIP_FRAMES - 1 - moment
    caption = grammar.clip_captions(drawn)[backward]
    look, place = grammar.appearance(drawn, moment), grammar.place(drawn, moment)
    asked = questions(drawn, moment)[backward]
    return Frame(scene.render(drawn, [moment])[0], caption, look, place, drawn.family, asked)


def static_set(count: int = 200, seed: int = 0, split: str = "all") -> tuple[np.ndarray, list[str]]:
    """Frames that show all shapes of their clip, with `count` distinct appearance captions.

    Returns:
        uint8 RGB [count, SIZE, SIZE, 3] and as many captions, no two equal.

    Raises:
        ValueError: the split has too few distinct captions.
    """
    found: dict[str, scene.Scene] = {}
    for index in range(20 * count):
        drawn, _ = _draw(index, seed, split, scene.FAMILIES)
        found.setdefault(grammar.appearance(drawn), drawn)
        if len(found) == count:
            frames = [scene.render(s, [scene.CLIP_FRAMES - 1])[0] for s in found.values()]
            return np.stack(frames), list(found)
    raise ValueError(f"split {split!r} has fewer than {count} distinct appearance captions")


def _draw(
    index: int, seed: int, split: str, families: Sequence[str]
) -> tuple[scene.Scene, np.random.Generator]:
    allowed = scene.looks(split)  # first, because it explains an unknown split
    rng = np.random.default_rng([seed, scene.SPLITS.index(split), index])
    return scene.draw_scene(rng, families[index % len(families)], allowed), rng
