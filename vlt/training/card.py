"""A model card: the data, method, metrics and licence of a folder to share."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vlt import configuration
from vlt.configuration.checkpoints import CHECKPOINTS
from vlt.model_io.folder import ModelConfig
from vlt.training.checkpoints import TrainingCheckpoints

# Names that model hubs have for licences; for others they want a name and a link.
_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0")
_PACKAGED = "tiny_"  # sizes that come with this package, under its licence
_USES = {
    "dual_encoder": "zero-shot-image-classification",
    "captioner": "image-to-text",
    "answerer": "visual-question-answering",
}


def model_card(
    workdir: Path, name: str, model: ModelConfig, report: str, changed: Any = None
) -> str:
    """README.md of a run's model. report: how its weights were made from the run's.

    changed: set where these are not a checkpoint's weights, so that nobody has measured them.
    """
    config = configuration.load_saved(workdir)
    head, base = _base(config.model.checkpoint or config.model.size)
    if model.spec.kind in _USES:
        head["pipeline_tag"] = _USES[model.spec.kind]
    lines = ["---", *(f"{key}: {value}" for key, value in head.items()), "---", f"# {name}", ""]
    lines += ["An image-language model trained for videos with `vlt`, its towers plain.", ""]
    lines += ["## Base", "", base, "", "## Training data", "", *_data(config), ""]
    lines += ["## Method", "", *_method(config, report), "", "## Videos", "", *_videos(model), ""]
    lines += ["## Metrics", "", *_metrics(config, workdir, changed)]
    return "\n".join(lines) + "\n"


def _base(checkpoint: str) -> tuple[dict[str, str], str]:
    """The card's front matter, and a sentence on what training started from."""
    name = Path(checkpoint).name
    if name in CHECKPOINTS:
        known = CHECKPOINTS[name]
        licence, url, about = known.licence, known.url, f"{known.about} (`{name}`)"
    elif name.startswith(_PACKAGED):
        licence, url, about = "Apache-2.0", "", f"`{name}` of the package `vlt`"
    else:
        licence, url, about = "unknown", "", f"`{name}`"
    head = {"license": licence.lower(), "library_name": "transformers"}
    if licence.lower() not in _LICENCES:
        head |= {"license": "other", "license_name": repr(licence)}
    where = f", {url}" if url else ""
    return head, f"{about}{where}. Licence of its weights: {licence}."


def _data(config: ConfigDict) -> list[str]:
    train = config.data.train
    if not config.train.steps or "manifest" not in train:
        return ["None: the weights are those that the run was given."]
    frames = train.get("sampler", {}).get("frames", config.model.frames)
    return [
        f"`{Path(train.manifest).name}`, {config.train.steps} batches of {train.batch_size} videos "
        f"with {frames} frames each."
    ]


def _method(config: ConfigDict, report: str) -> list[str]:
    methods = ", ".join(config.model.methods) or "none: the weights themselves are trained"
    rules = [
        f"- `{pattern}`: {treatment if isinstance(treatment, str) else dict(treatment)}"
        for pattern, treatment in config.rules
    ]
    told = [f"- {line}" for line in report.splitlines()]
    return [f"Methods: {methods}. Task: {config.task.name}.", "", "Rules of leaves:", *rules, "",
            "Weights:", *told]  # fmt: skip


def _videos(model: ModelConfig) -> list[str]:
    pixels, view = model.preprocessing, model.view
    mean = "unit vectors of frames, averaged" if model.frame_norm else "the mean over frames"
    lines = [f"Frames: {view.frames}, sampled as `{view.sampler}`, {pixels['image_size']} pixels."]
    if model.spec.kind == "dual_encoder":
        lines.append(f"A video's embedding: {mean}, then a unit vector.")
    return lines


def _metrics(config: ConfigDict, workdir: Path, changed: Any) -> list[str]:
    checkpoints = TrainingCheckpoints(workdir, 1, config.train.best_metric)
    step = checkpoints.chosen()
    if changed or step is None or not (found := checkpoints.metrics(step)):
        return ["The run measured nothing of these weights."]
    rows = [f"| {name} | {value:.4g} |" for name, value in sorted(found.items())]
    return [f"Of {checkpoints.describe(step)}:", "", "| metric | value |", "|---|---|", *rows]
