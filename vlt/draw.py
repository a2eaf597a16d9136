"""`vlt draw --config=NAME[:variant] VIDEO ... --out=DIR`: which patches become one token."""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from PIL import Image

from vlt import configuration
from vlt.command_line import why
from vlt.command_line.draw import parse
from vlt.data.manifests.resources import resolve
from vlt.data.video.clips import ClipRequest, read_clip
from vlt.inference.token_maps import CAPTION, CAPTION_PRUNED, enlarged, token_maps
from vlt.model_io.build import merges_tokens
from vlt.model_io.following import follow_checkpoint
from vlt.model_io.loading import LoadedModel, build_described, load_model
from vlt.reporting.paint import PRUNED, paint, picture
from vlt.storage.files import check_target, new_file


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to draw.

    layers: number of blocks in the vision tower. request: how it reads a video, without the path.
    load: reads its weights.
    """

    title: str
    layers: int
    request: ClipRequest
    load: Callable[[], LoadedModel]


class NothingMerges(ValueError):
    """None of the models has a method of vlt/merging."""


def of_config(
    name: str,
    overrides: Mapping[str, Any] | None = None,
    against: Sequence[str] = (),
    random: bool = False,
) -> list[Model]:
    """The models of a config that merge tokens (see vlt/command_line/draw.py).

    Args:
        name: as `load_config` takes it. overrides: {dotted key: value}, for every config drawn that
            has the key. against: configs to draw before it. random: whether no weights are read.

    Raises:
        NothingMerges: no method of any of them merges tokens.
        ConfigError, ModelFolderError, ValueError: a config or its checkpoint is invalid.
    """
    overrides = overrides or {}
    config = follow_checkpoint(configuration.load_config(name, overrides), overrides)
    if not against and not config.compare:
        against = _tome_beside(name)
    configs = [_load_other(other, overrides) for other in against]
    configs += [
        (title, configuration.apply_overrides(config, changes))
        for title, changes in config.compare or ((_short(name), {}),)
    ]
    if random:
        # No text is read: any tokenizer will do.
        without = {"model.checkpoint": "", "model.tokenizer": "none"}
        configs = [(t, configuration.apply_overrides(c, without)) for t, c in configs]
    models = [
        _model(title, each, functools.partial(load_model, each.model, each.seed))
        for title, each in configs
    ]
    return _that_merge(models, name)


def of_run(workdir: Path) -> list[Model]:
    """The models that merge tokens, of a run or all runs in a folder, at their best checkpoints.

    Raises:
        NothingMerges: no method of any of them merges tokens.
        ConfigError, ModelFolderError: the run or its base is not there.
    """
    from vlt.training.trained import trained_model

    runs = sorted(file.parent for file in workdir.glob("*/config.json")) or [workdir]
    models = [
        _model(run.name, configuration.load_saved(run), functools.partial(trained_model, run))
        for run in runs
    ]
    return _that_merge(models, str(workdir))


def _tome_beside(name: str) -> list[str]:
    if not configuration.split_name(name)[1]:
        return []
    try:
        configuration.load_config(f"{name}_tome")
    except configuration.ConfigError:
        return []
    return [f"{name}_tome"]


def _short(name: str) -> str:
    file, variant = configuration.split_name(name)
    return variant or file.stem


def _load_other(name: str, overrides: Mapping[str, Any]) -> tuple[str, ConfigDict]:
    config = configuration.load_config(name)
    for key, value in overrides.items():
        try:
            config = configuration.apply_overrides(config, {key: value})
        except configuration.ConfigError:
            continue  # an option of a method that it does not have
    return _short(name), follow_checkpoint(config, overrides)


def _model(title: str, config: ConfigDict, load: Callable[[], LoadedModel]) -> Model | None:
    """The model to draw, or None if it merges nothing."""
    module, _, _ = build_described(config.model)
    if not merges_tokens(module):
        return None
    if not config.evals:
        raise ValueError(f"{title}: config.evals is empty; its first says which frames are sampled")
    section = next(iter(config.evals.values()))
    visual = module.spec.visual
    size = visual.image_size
    # Generated clips already have the model's size; a user's own videos may not.
    request = ClipRequest.of_section(section, "", {"resize": size, "crop": size})
    names = " + ".join(type(method).__name__ for method in module.methods)
    title = title if title == names else f"{title} ({names})"
    return Model(title, visual.layers, request, load)


def _that_merge(models: Sequence[Model | None], name: str) -> list[Model]:
    found = [model for model in models if model is not None]
    if not found:
        raise NothingMerges(f"{name}: no method of vlt/merging is in config.model.methods")
    return found


def draw(
    models: Sequence[Model], videos: Sequence[str], layers: Sequence[int] = (), note: str = ""
) -> list[Image.Image]:
    """Draws a picture of each video.

    layers: blocks, from 0; the last by default. note: added to the title.

    Raises:
        VideoError: a file is not a video, or a broken one.
        ValueError: models that sample frames differently, or a layer that they do not have.
    """
    request = _common_request(models, layers)
    paths = [str(resolve(video)) for video in videos]
    clips = [read_clip(dataclasses.replace(request, path=path)) for path in paths]
    rows: list[list[tuple[str, np.ndarray]]] = [
        [(f"{len(clip)} frames ({request.sampler})", clip)] for clip in map(enlarged, clips)
    ]
    pruned = False
    for model in models:
        loaded = model.load()
        chosen = layers or (model.layers - 1,)
        every = token_maps(loaded.module, loaded.params, clips, chosen)
        for row, maps in zip(rows, every, strict=True):
            for layer, found in zip(chosen, maps, strict=True):
                where = f", after block {layer}" if layers else ""
                title = f"{model.title}{where}: {found.left:,} of {found.before:,} tokens"
                row.append((title, paint(row[0][1], found.tokens)))
                pruned |= bool((found.tokens == PRUNED).any())
    caption = CAPTION + (CAPTION_PRUNED if pruned else "")
    return [
        picture(f"{Path(path).name}{note}", row, caption)
        for path, row in zip(paths, rows, strict=True)
    ]


def _common_request(models: Sequence[Model], layers: Sequence[int]) -> ClipRequest:
    request = models[0].request
    for model in models:
        if model.request != request:
            raise ValueError(f"{models[0].title} and {model.title} do not see the same frames")
        for layer in layers:
            if not 0 <= layer < model.layers:
                raise ValueError(f"--layer={layer}: {model.title} has 0 to {model.layers - 1}")
    return request


def save(pictures: Sequence[Image.Image], videos: Sequence[str], folder: Path) -> list[Path]:
    """Writes folder/VIDEO.png for each; where a name is taken, a number is added."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for image, video in zip(pictures, videos, strict=True):
        stem = Path(video).stem
        numbered = (folder / f"{stem}-{number}.png" for number in itertools.count(2))
        names = itertools.chain([folder / f"{stem}.png"], numbered)
        files.append(next(name for name in names if name not in files))
        with new_file(files[-1]) as unfinished:
            image.save(unfinished)
    return files


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    from vlt.data.video.errors import VideoError
    from vlt.model_io.folder import ModelFolderError
    from vlt.storage.trees import CheckpointError

    options, videos = flags.FLAGS, arguments[1:]
    logging.set_verbosity(logging.WARNING)
    try:
        out = Path(options.out)
        _check_folder(out)
        models = [model for run in options.workdir for model in of_run(Path(run))]
        if options.config is not None:
            flag = options["config"]
            models += of_config(
                config_flags.get_config_filename(flag),
                config_flags.get_override_values(flag),
                options.against,
                options.random,
            )
        note = ", random weights" if options.random else ""
        pictures = draw(models, videos, tuple(options.layer), note)
        files = save(pictures, videos, out)
    except ModelFolderError as error:
        sys.exit(f"error: {error}; --random draws without weights")
    except (CheckpointError, OSError, ValueError, VideoError) as error:
        sys.exit(f"error: {why(error)}")
    print(*files, sep="\n")


def _check_folder(out: Path) -> None:
    """Raises ValueError where no pictures can be written into the folder."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, and {out} is a file")
    check_target(out / "picture.png")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
