"""What a clip shows: shapes with a colour, a place and a size at every moment, and their pictures.

Each of a scene's `CLIP_FRAMES` moments is drawn on its own, so a caller that needs three frames
pays for three. Its twin is the same scene with the moments in reverse order.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

SIZE = 32  # pixels, both sides
CLIP_FRAMES = 25
FAMILIES = ("horizontal", "vertical", "size", "presence", "orbit", "sequence")
COLOURS = {
    "red": (225, 30, 40),
    "green": (40, 170, 60),
    "blue": (45, 95, 245),
    "yellow": (250, 225, 40),
    "orange": (250, 135, 20),
    "purple": (150, 60, 200),
    "pink": (255, 140, 190),
    "cyan": (60, 215, 230),
}
BACKGROUNDS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "navy": (15, 20, 80),
    "brown": (95, 60, 35),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
HOLDOUT_SEED = 0  # fixed, so that data sets of any two seeds never share a held-out combination
SPLITS = ("train", "test", "all")


@dataclasses.dataclass(frozen=True)
class Look:
    """A combination of colour and shape, by which train and test are split."""

    colour: str
    shape: str


@dataclasses.dataclass(frozen=True)
class Track:
    """One shape through the clip: centre x, y and radius in pixels, each [CLIP_FRAMES].

    A radius of 0 means that the shape is not there.
    """

    look: Look
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scene:
    """A clip in its forward order: the first of its family's two motions.

    still: shapes behind the others that no caption names. noise: (deviation, seed) of the noise
    that is added to each colour of every pixel at every moment.
    """

    family: str
    background: str
    tracks: tuple[Track, ...]  # in the order they are named: in `sequence`, of appearance
    still: tuple[Track, ...] = ()
    noise: tuple[float, tuple[int, ...]] = (0.0, ())


def looks(split: str) -> list[Look]:
    """The colour and shape combinations of a split: 36 train, 12 test, 48 all.

    Every colour and every shape occurs in training; only combinations are held out.

    Raises:
        ValueError: unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: must be one of {', '.join(SPLITS)}")
    rng = np.random.default_rng(HOLDOUT_SEED)
    colour_rank, shape_rank = rng.permutation(len(COLOURS)), rng.permutation(len(SHAPES))
    chosen = []
    for c, colour in enumerate(COLOURS):
        for s, shape in enumerate(SHAPES):
            held_out = (colour_rank[c] + shape_rank[s]) % 4 == 0
            if split == "all" or held_out == (split == "test"):
                chosen.append(Look(colour, shape))
    return chosen


def draw_scene(rng: np.random.Generator, family: str, allowed: Sequence[Look]) -> Scene:
    """A random scene of `family` (one of FAMILIES) whose looks are among `allowed`.

    Raises:
        ValueError: unknown family.
    """
    if family not in FAMILIES:
        raise ValueError(f"family {family!r}: must be one of {', '.join(FAMILIES)}")
    background = str(rng.choice(list(BACKGROUNDS)))
    first = allowed[int(rng.integers(len(allowed)))]
    if family != "sequence":
        return Scene(family, background, (_single(rng, family, first),))
    others = [k for k in allowed if k.colour != first.colour and k.shape != first.shape]
    second = others[rng.integers(len(others))]
    return Scene(family, background, _sequence(rng, first, second))


def _constant(value: float) -> np.ndarray:
    return np.full(CLIP_FRAMES, value)


def _single(rng: np.random.Generator, family: str, look: Look) -> Track:
    radius = rng.uniform(5.0, 6.5)
    low, high = radius, SIZE - radius
    x, y = _constant(rng.uniform(low, high)), _constant(rng.uniform(low, high))
    radii = _constant(radius)
    time = np.linspace(0.0, 1.0, CLIP_FRAMES)
    if family in ("horizontal", "vertical"):
        distance = rng.uniform(15.0, high - low)
        path = rng.uniform(low, high - distance) + distance * time
        x, y = (path, y) if family == "horizontal" else (x, path)
    elif family == "size":
        radii = rng.uniform(2.0, 3.0) + rng.uniform(6.0, 7.5) * time
        x, y = (_constant(rng.uniform(radii[-1], SIZE - radii[-1])) for _ in range(2))
    elif family == "presence":
        radii = radii * (np.arange(CLIP_FRAMES) >= rng.integers(8, 18))
    else:  # orbit, clockwise in the picture: y grows downwards
        angle = rng.uniform(0, 2 * np.pi) + rng.uniform(1.5, 1.9) * np.pi * time
        x, y = (SIZE / 2 + rng.uniform(8.5, 9.5) * f(angle) for f in (np.cos, np.sin))
    return Track(look, x, y, radii)


def _sequence(rng: np.random.Generator, first: Look, second: Look) -> tuple[Track, Track]:
    starts = (rng.integers(4, 9), rng.integers(13, 19))
    centres = np.array([8.5, SIZE - 8.5])[rng.permutation(2)]  # far enough apart never to touch
    along_x = rng.random() < 0.5
    tracks = []
    for look, start, centre in zip((first, second), starts, centres, strict=True):
        along, across = centre + rng.uniform(-1, 1), SIZE / 2 + rng.uniform(-8, 8)
        x, y = (along, across) if along_x else (across, along)
        radii = rng.uniform(5.0, 6.5) * (np.arange(CLIP_FRAMES) >= start)
        tracks.append(Track(look, _constant(x), _constant(y), radii))
    return tracks[0], tracks[1]


def render(scene: Scene, moments: Sequence[int]) -> np.ndarray:
    """The scene's pictures at `moments` (0 to CLIP_FRAMES - 1): uint8 RGB [t, SIZE, SIZE, 3]."""
    picked = np.asarray(moments)
    picture = np.empty((len(picked), SIZE, SIZE, 3))
    picture[:] = BACKGROUNDS[scene.background]
    for track in (*scene.still, *scene.tracks):
        present = np.flatnonzero(track.radius[picked] > 0)
        at = picked[present]
        share = _coverage(track.look.shape, track.x[at], track.y[at], track.radius[at])[..., None]
        picture[present] += share * (np.array(COLOURS[track.look.colour]) - picture[present])
    deviation, seed = scene.noise
    if deviation:
        for index, moment in enumerate(picked):
            rng = np.random.default_rng([*seed, int(moment)])
            picture[index] += rng.normal(0.0, deviation, picture.shape[1:])
    return np.rint(picture.clip(0, 255)).astype(np.uint8)


def _coverage(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Share of every pixel that the shape covers, by distance to its edge: [t, SIZE, SIZE]."""
    grid = np.arange(SIZE) + 0.5
    dx = np.abs(grid[None, None, :] - x[:, None, None])
    dy = grid[None, :, None] - y[:, None, None]
    return np.clip(0.5 - _distance(shape, dx, dy, radius[:, None, None]), 0.0, 1.0)


def _distance(shape: str, dx: np.ndarray, dy: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Signed distance in pixels to the shape's edge; dx is already |x - centre|."""
    if shape == "circle":
        return np.hypot(dx, dy) - r
    if shape == "ring":
        return np.abs(np.hypot(dx, dy) - 0.78 * r) - 0.22 * r
    if shape == "triangle":  # apex (0, -r), base from (-r, 0.8 r) to (r, 0.8 r)
        return np.maximum(dy - 0.8 * r, (1.8 * dx - dy - r) / np.hypot(1.8, 1.0))
    dy = np.abs(dy)
    if shape == "square":
        return np.maximum(dx, dy) - 0.85 * r
    if shape == "diamond":
        return (dx + dy - 1.15 * r) / np.sqrt(2.0)
    bar, post = np.maximum(dx - r, dy - 0.3 * r), np.maximum(dx - 0.3 * r, dy - r)
    return np.minimum(bar, post)
