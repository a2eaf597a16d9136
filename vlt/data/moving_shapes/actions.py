"""Actions: one shape does one thing and then another; most are told apart by order alone.

A class is two motions, such as "moves right, then grows". Motions are along x, along y or in size;
two on different axes give 24 classes. Played backwards, "moves right, then grows" is "shrinks, then
moves left", with exactly the same frames. There and back again, "moves right, then moves left",
gives 6 more, which are their own reversals. All classes have equally many clips, so without the
order of frames at most 60% can be recognised.

Six classes, three and their reversals, are novel: every motion occurs in them, and order alone
tells each from its reversal. The other 24 are base.
"""

import dataclasses
import itertools

import numpy as np

from vlt.data.moving_shapes import scene

MOTIONS = (("moves right", "moves left"), ("moves down", "moves up"), ("grows", "shrinks"))
HALF = scene.CLIP_FRAMES // 2  # the moment between the two motions
PARTS = ("base", "novel")


@dataclasses.dataclass(frozen=True)
class Action:
    """Axis (x, y, size) and direction (0 or 1, as in `MOTIONS`) of the first and second motion."""

    first: tuple[int, int]
    second: tuple[int, int]

    @property
    def name(self) -> str:
        """The name of the class."""
        return f"{_word(self.first)}, then {_word(self.second)}"

    @property
    def reversed(self) -> "Action":
        """The action that is seen when the clip is played backwards."""
        return Action(_undone(self.second), _undone(self.first))

    @property
    def part(self) -> str:
        """The part that the class belongs to: base or novel."""
        return PARTS[self in NOVEL or self.reversed in NOVEL]


def _word(motion: tuple[int, int]) -> str:
    return MOTIONS[motion[0]][motion[1]]


def _undone(motion: tuple[int, int]) -> tuple[int, int]:
    return motion[0], 1 - motion[1]


def _all_actions() -> tuple[Action, ...]:
    motions = [(axis, way) for axis in range(3) for way in range(2)]
    pairs = itertools.product(motions, motions)
    return tuple(Action(first, second) for first, second in pairs if first != second)


ACTIONS = _all_actions()
# Right then up, left then grows, down then grows; their reversals are novel too.
NOVEL = (Action((0, 0), (1, 1)), Action((0, 1), (2, 0)), Action((1, 0), (2, 0)))
# One of each action and its reversal.
FORWARD = tuple(a for i, a in enumerate(ACTIONS) if ACTIONS.index(a.reversed) >= i)


def classes(part: str) -> list[str]:
    """Names of the base or novel classes, in the order of their indices."""
    return [action.name for action in ACTIONS if action.part == part]


def _spatial(name: str) -> list[str]:
    """Descriptions of where the shape is before and after its motions."""
    places = {"right": "left", "left": "right", "up": "down", "down": "up"}
    words = name.replace(",", "").split()
    ends = [word for word in words if word in places]
    starts = [places[word] for word in ends]
    if starts == ends[::-1]:  # there and back again
        starts, ends = starts[:1], ends[1:]
    return [" ".join(["a circle", *found, "on a black background"]) for found in (starts, ends)]


def _temporal(name: str) -> list[str]:
    """Descriptions of the two steps."""
    return name.split(", then ")


DESCRIPTIONS = {"spatial": _spatial, "temporal": _temporal}  # of a class, by kind


def draw_action(pair: int, seed: int, split: str) -> tuple[np.ndarray, tuple[Action, ...]]:
    """Frames uint8 [CLIP_FRAMES, SIZE, SIZE, 3] of pair number `pair`, and the action they show
    forwards and, if it is another, the one they show backwards.

    Raises:
        ValueError: unknown split.
    """
    allowed = scene.looks(split)
    rng = np.random.default_rng([seed, scene.SPLITS.index(split), pair, len(ACTIONS)])
    action = FORWARD[pair % len(FORWARD)]
    track = _track(rng, action, allowed[int(rng.integers(len(allowed)))])
    background = str(rng.choice(list(scene.BACKGROUNDS)))
    drawn = scene.Scene("action", background, (track,))
    shown = (action,) if action == action.reversed else (action, action.reversed)
    return scene.render(drawn, range(scene.CLIP_FRAMES)), shown


def _track(rng: np.random.Generator, action: Action, look: scene.Look) -> scene.Track:
    sizes = np.array([rng.uniform(2.0, 3.0), rng.uniform(7.0, 8.0)])
    if 2 not in (action.first[0], action.second[0]):
        sizes[:] = rng.uniform(4.0, 5.5)
    room = sizes.max(), scene.SIZE - sizes.max()
    ends = [np.array(room), np.array(room), sizes]  # of x, y and size
    values = (low + (high - low) * _path(rng, action, k) for k, (low, high) in enumerate(ends))
    return scene.Track(look, *values)


def _path(rng: np.random.Generator, action: Action, axis: int) -> np.ndarray:
    """The position along the axis at each moment, from 0 to 1 between its ends."""
    moves = [(k, way) for k, (a, way) in enumerate((action.first, action.second)) if a == axis]
    if not moves:
        return np.full(scene.CLIP_FRAMES, rng.uniform(0.2, 0.8))
    time = np.arange(scene.CLIP_FRAMES)
    path = np.empty(scene.CLIP_FRAMES)
    for k, way in moves:
        own = time <= HALF if k == 0 else time >= HALF
        share = (time[own] - k * HALF) / HALF
        path[own] = 1 - share if way else share
        if len(moves) == 1:  # it waits before or after
            path[~own] = path[own][-1 if k == 0 else 0]
    return path
