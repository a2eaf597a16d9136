"""`vlt adapt --videos=DIR --captions=FILE --model=DIR --out=DIR`: a model for one's own videos."""

import argparse
import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vlt.bench.timing import matmul_rate
from vlt.command_line.adapt import parse
from vlt.configuration import apply_overrides, is_run, load_config, load_saved
from vlt.data.manifests.manifest import Record, read_manifest
from vlt.data.manifests.resources import resolve
from vlt.data.video.clips import decoders
from vlt.door import run_door
from vlt.export import export
from vlt.inspect import inspect_config
from vlt.main import columns, expected_errors, run_all, slug
from vlt.model_io.folder import read_model_config
from vlt.models.spec import DualEncoderSpec
from vlt.reporting.tables import format_table
from vlt.runtime.libraries import prepare_libraries
from vlt.runtime.memory import free_on_device, free_on_host
from vlt.storage.files import write_whole

BEFORE, AFTER = "before", "after"
RUN = "run"  # folder of the run, beside its manifests
FEWEST = 8  # videos, or groups of them, of which two are held out
HELD_OUT, MOST_HELD_OUT = 0.1, 1000  # share of the videos, and how many at most
PASSES, MOST_STEPS = 50, 1000
MOST_BATCH = 32
# Share of the videos that may be unreadable; half of those held out, which may be few.
MOST_UNREADABLE = {"train": 0.1, "held_out": 0.5}
FRAMES = 12  # where the model folder gives no number
SMALL = 192  # width of a tower below which the recipe for moving shapes is used
# Sources of the recipes: a config for published towers; for small ones, a config and its row.
RECIPES = {
    "tempme": ("tempme:own", "tempme", "TempMe"),
    "lora": ("tempme:own_lora", "tempme", "LoRA"),
    "btadapter": ("btadapter:own", "btadapter", "BT-Adapter"),
}
# Parts of a config that make up a recipe.
RECIPE = ("rules", "optimizer", "task")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command."""
    return run(parse("python -m vlt.adapt", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    return run_door(lambda: _adapt(options), expected_errors())


def _adapt(options: argparse.Namespace) -> int:
    if options.out.exists():
        raise ValueError(f"{options.out} exists; give another --out")
    spec = read_model_config(resolve(options.model)).spec
    if not isinstance(spec, DualEncoderSpec):
        raise ValueError(f"{options.model} is a {spec.kind}; a dual encoder is needed")
    folder = options.out.with_name(f"{options.out.name}.run")
    train, held_out = split(read_manifest_below(options.captions, options.videos), options.group)
    for name, records in (("train", train), ("held_out", held_out)):
        write_rows(folder / f"{name}.jsonl", records, options.group)
    config = config_of(options, folder, len(train))
    print(cost(config, len(train), len(held_out)), file=sys.stderr, flush=True)
    if options.dry_run:
        return 0
    prepare_libraries()
    workdir = folder / RUN
    rows = run_all(config, workdir)
    export(workdir / slug(AFTER), options.out, "orbax")
    shown = f"python -m vlt.embed {options.videos} --model={options.out} --out=INDEX"
    if options.json:
        print(json.dumps({"model": str(options.out), **_scores(rows)}))
    else:
        print(format_table(rows, columns(config)))
    print(shown, file=sys.stderr)
    return 0


def read_manifest_below(file: Path, folder: Path) -> list[Record]:
    """Reads rows whose videos are named relative to `folder` instead of the file's own folder.

    Raises:
        ManifestError: as `read_manifest`; ValueError: a row without a caption, or a missing video.
    """
    found = []
    for record in read_manifest(file, check_videos=False):
        name = Path(record.video)
        if name.is_relative_to(file.parent):
            name = name.relative_to(file.parent)
        path = folder / name  # just the name if that is an absolute path
        if not path.is_file():
            raise ValueError(f"{file}, line {record.line}: no video {name} in {folder}")
        if not record.captions:
            raise ValueError(f"{file}, line {record.line}: a `caption` is needed")
        found.append(dataclasses.replace(record, video=str(path.resolve())))
    return found


def split(records: Sequence[Record], group: str = "") -> tuple[list[Record], list[Record]]:
    """Splits rows into those to train on and those of held-out videos, the same ones each time.

    group: column whose equal values stay on one side.

    Raises:
        ValueError: too few videos or groups, or rows without that column.
    """
    first: dict[str, str] = {}  # first video of each group
    for record in records:
        if group and group not in record.extra:
            raise ValueError(f"--group={group}: line {record.line} has no such column")
        first.setdefault(str(record.extra[group]) if group else record.video, record.video)
    videos = {record.video for record in records}
    if len(videos) < FEWEST:
        raise ValueError(f"{len(videos)} videos have captions; at least {FEWEST} are needed")
    if len(first) < FEWEST:
        raise ValueError(
            f"--group={group}: {len(first)} groups, which stay whole; at least {FEWEST} are needed"
        )
    units = sorted(first, key=lambda unit: _digest(first[unit]))
    count = min(MOST_HELD_OUT, max(2, round(HELD_OUT * len(units))))
    held_out = set(units[:count])
    parts: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        parts[(str(record.extra[group]) if group else record.video) in held_out].append(record)
    return parts


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).name.encode(errors="surrogateescape")).hexdigest()


def write_rows(file: Path, records: Sequence[Record], group: str) -> None:
    """Writes a manifest of these rows, with a column `group` if there are groups."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        {"video": record.video, "caption": list(record.captions)}
        | ({"group": str(record.extra[group])} if group else {})
        for record in records
    )
    write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))


def config_of(options: argparse.Namespace, folder: Path, rows: int) -> ConfigDict:
    """The config for a method, a model and this machine, with the rows `before` and `after`.

    folder: holds the manifests, and the run if it began before: it goes on with the same batch,
        however much memory is free now. rows: number of rows to train on.
    """
    stored = read_model_config(resolve(options.model))
    visual = stored.spec.visual
    config = load_config(RECIPES[options.method][0])
    size = visual.image_size
    told = max(stored.frames or 0, stored.view.frames or 0)
    frames = options.frames or (told if told > 1 else FRAMES)
    config.model.update(checkpoint=options.model, size="", frames=frames)
    config.model.context = min(config.model.context, stored.spec.text.context)
    if visual.width < SMALL:
        _take_small_recipe(config, options.method)
    else:
        _fit_depth(config, visual.layers)
    crop = {"resize": size, "crop": size}
    for section, name in ((config.data.train, "train"), (config.evals.own, "held_out")):
        section.manifest = str(folder.resolve() / f"{name}.jsonl")
        section.transform = ConfigDict(crop)  # instead of the recipe's, which is for another size
        section.on_error = "replace" if name == "train" else "skip"
        section.max_error_rate = MOST_UNREADABLE[name]
    config.data.train.group = "group" if options.group else ""
    config.data.workers = decoders()
    begun = load_saved(folder / RUN).data.train.batch_size if is_run(folder / RUN) else None
    config.data.train.batch_size = options.batch or begun or batch_that_fits(config, visual, rows)
    steps = min(MOST_STEPS, math.ceil(PASSES * rows / config.data.train.batch_size))
    config.train.update(steps=options.steps or steps, eval_every=0, best_metric="")
    config.train.checkpoint_every = max(1, min(250, config.train.steps))
    frozen = {"model.methods": (), "rules": ((".*", "frozen"),), "train.steps": 0}
    config.compare = ((BEFORE, frozen), (AFTER, {}))
    return config


def _take_small_recipe(config: ConfigDict, method: str) -> None:
    """Takes the recipe for the package's own towers, which learn faster."""
    _, name, row = RECIPES[method]
    recipe = load_config(name)
    recipe = apply_overrides(recipe, dict(recipe.compare)[row])
    for part in RECIPE:
        config[part] = recipe[part]
    for each in recipe.model.methods:
        config.model[each] = recipe.model[each]
    config.model.methods = recipe.model.methods
    config.model.frame_norm = recipe.model.frame_norm
    if "tempme" in recipe.model.methods:
        config.model.tempme.join = (2, config.model.frames // 2)


def _fit_depth(config: ConfigDict, layers: int) -> None:
    """Makes TempMe join clips in the layers just before the last, until one clip is left."""
    if "tempme" not in config.model.methods:
        return
    join = joins(config.model.frames)
    config.model.tempme.join = join
    config.model.tempme.layers = tuple(range(layers - 1 - len(join), layers - 1))


def joins(frames: int) -> tuple[int, ...]:
    """Splits a number of frames into at most three factors, ascending: (2, 2, 3) for 12."""
    left, found = frames, list[int]()
    for factor in range(2, frames + 1):
        while left % factor == 0:
            found.append(factor)
            left //= factor
    while len(found) > 3:
        found = sorted([found[0] * found[1], *found[2:]])
    return tuple(found)


def batch_that_fits(config: ConfigDict, visual: Any, rows: int) -> int:
    """The largest power of two, up to `MOST_BATCH` and `rows`, whose activations fit in half of the
    free memory: 34 bytes per token, channel and layer in half precision (Korthikanti et al., 2022),
    here twice that."""
    tokens = config.model.frames * ((visual.image_size // visual.patch_size) ** 2 + 1)
    each = 2 * 34 * tokens * visual.width * visual.layers
    free = free_on_device() or free_on_host() or 1 << 32
    most = max(1, min(MOST_BATCH, rows, free // 2 // each))
    return 1 << (most.bit_length() - 1)


def cost(config: ConfigDict, train: int, held_out: int) -> str:
    """Tells in a few lines what a run will take, judging by this machine's matmul rate."""
    told = inspect_config(config)
    batch, steps = config.data.train.batch_size, config.train.steps
    gmacs = told["video_gmacs_run"] + told["text_gmacs"]
    width = read_model_config(resolve(config.model.checkpoint)).spec.visual.width
    rate = matmul_rate(batch * config.model.frames * 50, width)
    seconds = 3 * 2e9 * gmacs * batch * steps / rate
    device = jax.devices()[0].device_kind
    return (
        f"{' + '.join(config.model.methods)} over {config.model.checkpoint}: trains "
        f"{told['trainable_params']:,} of {told['total_params']:,} parameters\n"
        f"{train:,} captions to train on, {held_out:,} held out; {steps:,} steps of {batch} videos "
        f"of {config.model.frames} frames\n"
        f"at least {_time(seconds)} of computing on {device}, at {rate / 1e9:,.0f} GFLOP/s; "
        "reading the videos comes on top where decoders are slower"
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:,.0f} min"


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Retrieval scores before and after."""
    return {
        row["row"]: {
            key.removeprefix("own/"): value
            for key, value in row.items()
            if key.startswith("own/") and isinstance(value, (int, float))
        }
        for row in rows
    }


if __name__ == "__main__":
    sys.exit(main())
