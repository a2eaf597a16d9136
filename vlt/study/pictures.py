"""Pictures of claims."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from vlt.reporting.bars import Bar, draw_bars
from vlt.reporting.dots import Axes, Dot, draw_dots
from vlt.storage.files import write_whole
from vlt.study.claim import MEASURES, Claim, Picture, Row
from vlt.study.verdict import Runs

# What the rows of a config are about, by the config's name.
GROUPS = {
    "tempme": "retrieval over CLIP",
    "btadapter": "retrieval over CLIP",
    "token_mixing": "captions over BLIP",
    "video_chat": "answers of a chat model",
    "msta": "recognition over ViCLIP and CLIP",
}
CHANCE = 50.0  # percent, of twins


def draw_claim(claim: Claim, rows: Mapping[str, Runs]) -> Image.Image | None:
    """The picture of a claim, from the rows that were run; None if fewer than two of them were."""
    scored = {
        row.name: _values(claim.picture.y, rows[row.name]) for row in claim.rows if row.name in rows
    }
    if sum(map(bool, scored.values())) < min(2, len(claim.rows)):
        return None
    measure = MEASURES[claim.picture.y]
    if claim.picture.x:
        return _dots(claim, rows, scored)
    bars = [Bar(row.name, scored.get(row.name, ()), row.order is False) for row in claim.rows]
    level = CHANCE if measure.chance == "pairs" else 0.0
    return draw_bars(measure.title, bars, measure.format, level)


def _values(measure: str, runs: Runs) -> list[float]:
    found = (scores for scores in runs.by_seed.values() if scores.has(MEASURES[measure]))
    return [scores.of(MEASURES[measure]) for scores in found]


def _dots(
    claim: Claim, rows: Mapping[str, Runs], scored: Mapping[str, list[float]]
) -> Image.Image | None:
    picture = claim.picture
    several = len({GROUPS.get(row.config.partition(":")[0]) for row in claim.rows}) > 1
    dots = [
        _dot(row, picture, rows[row.name], scored[row.name], several)
        for row in claim.rows
        if scored.get(row.name) and (picture.x in MEASURES or row.name in picture.at)
    ]
    if not dots:
        return None
    known, measure = MEASURES.get(picture.x), MEASURES[picture.y]
    axes = Axes(
        measure.title,
        known.title if known else picture.x,
        measure.title,
        logarithmic=picture.x == "trained",
        level=CHANCE if measure.chance == "pairs" else None,
    )
    note = f"size: {MEASURES[picture.area].title}" if picture.area else ""
    if any(row.order is False for row in claim.rows):
        note = "; ".join(filter(None, (note, "hollow: does not see the order of frames")))
    return draw_dots(axes, dots, picture.lines, note)


def _dot(row: Row, picture: Picture, runs: Runs, values: list[float], several: bool) -> Dot:
    x = picture.at.get(row.name, 0.0)
    if picture.x in MEASURES:
        x = float(np.mean(_values(picture.x, runs)))
    area = float(np.mean(_values(picture.area, runs))) if picture.area else 0.0
    return Dot(
        row.name,
        x,
        float(np.mean(values)),
        float(np.std(values)),
        area,
        GROUPS.get(row.config.partition(":")[0], "") if several else "",
        row.order is False,
    )


def save(image: Image.Image, file: Path) -> None:
    """Writes a small PNG, unless the file already has the same content."""
    content = io.BytesIO()
    image.quantize(64).save(content, "PNG", optimize=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists() or file.read_bytes() != content.getvalue():
        write_whole(file, content.getvalue())
