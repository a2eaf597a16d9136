"""What a comparison leaves behind: its pictures, where things are, and what to try next."""

import io
import json
import shlex
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from PIL import Image

from vlt.data.video.clips import ClipRequest, read_clip
from vlt.reporting.curves import Curve, Panel, draw_panels
from vlt.reporting.strips import Choice, Strip, draw_strips
from vlt.storage.files import write_whole
from vlt.tasks.twins import EVALUATIONS, TIE
from vlt.training.metrics_log import read_metrics

CURVES, STRIPS = "curves.png", "twins.png"

Runs = list[tuple[str, Path, ConfigDict]]  # title, folder and config of one run of each row


def draw(workdir: Path, runs: Runs) -> list[Path]:
    """Draws `curves.png` and `twins.png`, as far as runs have the data; returns the files.

    Pictures that are newer than all runs stay as they are.

    Raises: as `read_clip`.
    """
    ended = max((folder / "run.json").stat().st_mtime for _, folder, _ in runs)
    drawn = []
    for name, draw_one in ((CURVES, _curves), (STRIPS, _twins)):
        file = workdir / name
        if not file.exists() or file.stat().st_mtime < ended:
            image = draw_one(runs)
            if image is None:
                continue
            content = io.BytesIO()
            image.quantize(128).save(content, "PNG", optimize=True)
            write_whole(file, content.getvalue())
        drawn.append(file)
    return drawn


def closing(config_name: str, workdir: Path, runs: Runs, pictures: list[Path]) -> str:
    """Where results, pictures and the best trained row's checkpoints are, and how to go on."""
    files = ", ".join(["results.md", *(picture.name for picture in pictures)])
    lines, commands = [f"In {workdir}: {files}"], []
    if best := _best(runs):
        lines.append(f"Checkpoints: {best / 'checkpoints'}, and so for each row")
        commands.append(f"vlt.export --workdir={_quoted(best)} {_quoted(workdir, '-model')}")
    # If rows are repeated with several seeds anyway, one more says nothing new.
    if all(folder.parent == workdir for _, folder, _ in runs):
        again = f"vlt.main --config={_quoted(config_name)} --config.seed=1"
        commands.append(f"{again} --workdir={_quoted(workdir, '-seed1')}")
    other = "tempme" if "btadapter" in config_name else "btadapter"
    commands.append(f"vlt.main --config=configs/{other}.py")
    return "\n".join([*lines, "", "To go on:", *(f"  python -m {each}" for each in commands)])


def _best(runs: Runs) -> Path | None:
    """The folder of the trained row that tells most twins apart; without twins, of the last one."""
    key = _twins_measure(runs)

    def told_apart(folder: Path) -> float:
        found = [entry[key] for entry in read_metrics(folder) if key in entry]
        return float(found[-1]) if found else 0.0

    trained = [folder for _, folder, config in reversed(runs) if config.train.steps]
    return max(trained, key=told_apart, default=None)


def _quoted(path: str | Path, ending: str = "") -> str:
    return shlex.quote(f"{path}{ending}")


def _curves(runs: Runs) -> Image.Image | None:
    """Loss, and twin accuracy by video, over the steps; None if there is neither."""
    entries = [(title, read_metrics(folder)) for title, folder, _ in runs]
    twins = _twins_measure(runs)
    titles = {"loss": "Training loss", twins: "Twins told apart, video to text (%)"}
    panels = []
    for key, title in titles.items():
        curves = [
            Curve(name, [(entry["step"], entry[key]) for entry in found if key in entry])
            for name, found in entries
        ]
        if any(curve.points for curve in curves):
            panels.append(Panel(title, curves, *((40, 100) if key == twins else (0, 0))))
    return draw_panels(panels) if panels else None


def _twin_evaluations(runs: Runs) -> list[str]:
    """Names of the first row's evaluations of twins."""
    return [name for name, section in runs[0][2].evals.items() if section.kind in EVALUATIONS]


def _twins_measure(runs: Runs) -> str:
    """The metric of twins, video to text, in their first evaluation; '' if there is none."""
    return next((f"{name}/twins_v2t" for name in _twin_evaluations(runs)), "")


def _twins(runs: Runs) -> Image.Image | None:
    """The first held-out pair with what every row chose; None if twins are not evaluated."""
    for name in _twin_evaluations(runs):
        files = [folder / f"twins-{name}.json" for _, folder, _ in runs]
        if all(file.exists() for file in files):
            section = runs[0][2].evals[name]
            pairs = [json.loads(file.read_text(encoding="utf-8"))[0] for file in files]
            strips = [_strip(pairs, [title for title, *_ in runs], section, i) for i in (0, 1)]
            return draw_strips(strips, "The first held-out pair: a clip, and its frames reversed.")
    return None


def _strip(pairs: list[dict[str, Any]], titles: list[str], section: Any, index: int) -> Strip:
    """A video of the pair, and the choice of each row."""
    pair = pairs[0]
    own, other = pair["captions"][index], pair["captions"][1 - index]
    choices = [
        chosen(title, each["scores"][index][index], each["scores"][index][1 - index], own, other)
        for title, each in zip(titles, pairs, strict=True)
    ]
    request = ClipRequest.of_section(section, pair["videos"][index])
    return Strip(own, read_clip(request), choices)


def chosen(model: str, score: float, score_of_other: float, own: str, other: str) -> Choice:
    """A model's choice between a video's own caption and its twin's, by their scores."""
    if abs(score - score_of_other) <= TIE:
        return Choice(model, "cannot tell the two captions apart", None)
    right = score > score_of_other
    return Choice(model, own if right else other, right)
