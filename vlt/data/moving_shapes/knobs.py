"""Knobs that make moving shapes harder, for when all models tell all twins apart."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from vlt.data.moving_shapes.scene import CLIP_FRAMES, SIZE, Look, Scene, Track
from vlt.pytrees.fields import did_you_mean

STRETCHED = ("horizontal", "vertical", "size", "orbit")  # families whose motion has a length
_STREAM = 9  # of random numbers, separate from those that the scene itself is drawn from


@dataclasses.dataclass(frozen=True)
class Knobs:
    """Changes to every clip; the scene is drawn from the same numbers with and without them.

    distractors: number of shapes that stand still behind the named ones, in other colours and forms
        than those. noise: standard deviation, of 255 levels, of the noise that each colour of each
        pixel of each frame gets independently. motion: share of each motion, growth or turn that is
        kept, the middle of its path; a clip is as long as before, so all of it is that much slower.

    Raises:
        ValueError: a number is out of range.
    """

    distractors: int = 0
    noise: float = 0.0
    motion: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.distractors <= 4:
            raise ValueError(f"distractors must be 0 to 4, got {self.distractors}")
        if not 0 <= self.noise <= 128:
            raise ValueError(f"noise must be 0 to 128 grey levels, got {self.noise}")
        if not 0 < self.motion <= 1:
            raise ValueError(f"motion must be above 0 and at most 1, got {self.motion}")

    @classmethod
    def parse(cls, settings: Sequence[str]) -> Self:
        """Parses settings such as "noise=24".

        Raises:
            ValueError: a knob does not exist, or its value is not a number.
        """
        names = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        found: dict[str, Any] = {}
        for setting in settings:
            name, _, text = setting.partition("=")
            if name not in names:
                near = did_you_mean(name, names)
                raise ValueError(f"no knob {name!r}{near}; choose from {', '.join(names)}")
            try:
                found[name] = names[name](text)
            except ValueError:
                raise ValueError(f"{name}={text!r}: must be a number, as {name}=1") from None
        return cls(**found)

    @property
    def turned(self) -> dict[str, float]:
        """The knobs that differ from their defaults, by name."""
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if getattr(self, f.name) != f.default}

    def applied(self, scene: Scene, allowed: Sequence[Look], seed: Sequence[int]) -> Scene:
        """The scene with all knobs applied. seed: seeds what is drawn in addition to it."""
        if not self.turned:
            return scene
        rng = np.random.default_rng([*seed, _STREAM])
        still = tuple(self._still(rng, scene, allowed) for _ in range(self.distractors))
        tracks = scene.tracks
        if self.motion != 1 and scene.family in STRETCHED:
            tracks = tuple(_slowed(track, self.motion) for track in tracks)
        noise = (self.noise, (*seed, _STREAM + 1))
        return dataclasses.replace(scene, tracks=tracks, still=still, noise=noise)

    def _still(self, rng: np.random.Generator, scene: Scene, allowed: Sequence[Look]) -> Track:
        named = [track.look for track in scene.tracks]
        colours, shapes = {look.colour for look in named}, {look.shape for look in named}
        others = [k for k in allowed if k.colour not in colours and k.shape not in shapes]
        look = others[int(rng.integers(len(others)))]
        radius = rng.uniform(3.0, 4.0)
        x, y = rng.uniform(radius, SIZE - radius, 2)
        return Track(look, *(np.full(CLIP_FRAMES, value) for value in (x, y, radius)))


def _slowed(track: Track, share: float) -> Track:
    """The track along the middle part of its path, in as many moments."""
    time = np.linspace(-1.0, 1.0, CLIP_FRAMES)
    values = (np.interp(share * time, time, value) for value in (track.x, track.y, track.radius))
    return Track(track.look, *values)
