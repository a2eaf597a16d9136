"""What a model sees of a video in its evaluation, as its folder records it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vlt.data.video.sample import RANDOM_SAMPLERS, check_sampler
from vlt.data.video.transform import INTERPOLATIONS
from vlt.models.spec import Spec
from vlt.models.spec_reading import MOST_TOKENS
from vlt.pytrees.fields import near, shown

FRAMES = 8  # for a model that takes any number of them
LARGEST = 4096  # pixels of a side


@dataclasses.dataclass(frozen=True)
class View:
    """`view` of config.json, which older folders lack.

    sampler: a rule of vlt.data.video.sample without randomness. frames: how many it takes; None for
    as many as the model was trained with or has embeddings for, else `FRAMES`. resize, crop,
    interpolation: as in vlt.data.video.transform; None for what `preprocessing` says.
    allow_truncated: whether a damaged video is taken for what can be read of it; recorded only
    where it is.
    """

    sampler: str = "segment_centre"
    frames: int | None = None
    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    interpolation: str | None = None
    allow_truncated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields as they are in config.json."""
        fields = dataclasses.asdict(self)
        if not self.allow_truncated:
            del fields["allow_truncated"]
        return fields

    @classmethod
    def of_section(cls, section: Mapping[str, Any]) -> "View | None":
        """What an evaluation's section takes of a video; None if that cannot be a view: several
        clips, random frames, or other steps of transform."""
        sampler, steps = section["sampler"], dict(section["transform"])
        sizes = {name: steps.pop(name, None) for name in ("resize", "crop", "interpolation")}
        if steps or sampler["name"] in RANDOM_SAMPLERS or sampler.get("clips", 1) > 1:
            return None
        if any(sizes.values()):
            sizes["interpolation"] = sizes["interpolation"] or "bicubic"
        return cls(sampler["name"], sampler["frames"], **sizes)

    def check(self, spec: Spec) -> None:
        """Raises ValueError unless it yields frames that a model of these sizes takes."""
        check_sampler(self.sampler)
        if self.sampler in RANDOM_SAMPLERS:
            raise ValueError(
                f"view.sampler must be a sampler that draws nothing at random, got {self.sampler!r}"
            )
        if self.frames is not None and not 1 <= self.frames <= MOST_TOKENS:
            raise ValueError(f"view.frames must be between 1 and {MOST_TOKENS}, got {self.frames}")
        if self.interpolation not in (None, *INTERPOLATIONS):
            known = near(self.interpolation, INTERPOLATIONS)
            raise ValueError(f"view.interpolation={shown(self.interpolation)}{known}")
        self._check_size(spec.visual.image_size)

    def _check_size(self, side: int) -> None:
        sides = [self.resize] if isinstance(self.resize, int) else [*(self.resize or ())]
        if not all(1 <= each <= LARGEST for each in sides):
            raise ValueError(f"view.resize must be between 1 and {LARGEST}, got {self.resize}")
        if self.crop not in (None, side) or (self.crop is None and {*sides} - {side}):
            raise ValueError(
                f"view.resize={self.resize}, view.crop={self.crop}: the tower takes frames of "
                f"{side} by {side}"
            )

    def transform(self, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
        """Steps of vlt.data.video.transform. preprocessing: the folder's."""
        side, cut = preprocessing["image_size"], preprocessing.get("crop") == "center"
        given = {"resize": self.resize, "crop": self.crop}
        steps = {name: value for name, value in given.items() if value is not None}
        if not steps:
            steps = {"resize": side, "crop": side} if cut else {"resize": (side, side)}
        interpolation = self.interpolation or preprocessing.get("resize", "bicubic")
        return steps | {"interpolation": interpolation}
