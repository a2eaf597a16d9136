"""`python -m vlt.draw --config=FILE[:variant] VIDEO ... --out=DIR`: which patches become one token.

Writes DIR/VIDEO.png for every video file: the frames that the config's first evaluation samples,
then a row for each model. Patches of one token are filled with their mean colour over all frames
and outlined in one colour (TempMe, Figures 4 and 7). Models are those of `config.compare` that
merge; without any, the config's own, after its variant VARIANT_tome where the file has one.

--against=FILE:variant  another config to draw first, with the same overrides; may be repeated
--workdir=DIR           a trained run, or a folder of runs, instead of configs; may be repeated
--layer=N               after block N, from 0, instead of the last one; may be repeated
--random                random weights: then tokens merge by colour and position alone
"""

import colorsys
import dataclasses
import functools
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from PIL import Image, ImageDraw, ImageFont

from vlt import configuration
from vlt.data.clips import ClipRequest, read_clip
from vlt.loading import LoadedModel, build_described, load_model
from vlt.models.dual_encoder import DualEncoder
from vlt.resources import resolve

PRUNED = -1  # the token of a patch that is in none
SIDE = 128  # pixels of a frame, at least
COLUMNS = 16  # frames side by side, at most
MARGIN, GAP = 24, 4  # pixels
PAGE = (232, 232, 232)  # unlike white frames
# Eight hues, each bright, pale and dark.
PALETTE = np.array(
    [
        [round(255 * part) for part in colorsys.hsv_to_rgb(hue / 8, saturation, value)]
        for saturation, value in ((1, 1), (0.4, 1), (1, 0.6))
        for hue in range(8)
    ],
    np.uint8,
)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to draw.

    layers: blocks in the vision tower. request: how it reads a video, path left out. load: reads
    its weights.
    """

    title: str
    layers: int
    request: ClipRequest
    load: Callable[[], LoadedModel]


class TokenMap(NamedTuple):
    """tokens: int [t, rows, cols] the token that each patch is in, or PRUNED. left: all tokens
    after that block, class tokens included; before: all that entered the first."""

    tokens: np.ndarray
    left: int
    before: int


class NothingMerges(ValueError):
    """None of the models has a method of vlt/merging."""


def of_config(
    name: str,
    overrides: Mapping[str, Any] | None = None,
    against: Sequence[str] = (),
    random: bool = False,
) -> list[Model]:
    """The models of a config that merge, see the module.

    Args:
        name: 'configs/file.py[:variant]'. overrides: {dotted key: value}, of every config drawn
            that has the key. against: configs that are drawn before it. random: no weights are
            read.

    Raises:
        NothingMerges: no method of any of them merges tokens.
        ConfigError, ModelFolderError, ValueError: a config or its checkpoint is not as it must be.
    """
    overrides = overrides or {}
    config = configuration.load_config(name, overrides)
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
    """The models that merge of a run, or of all runs in a folder, at their best checkpoints.

    Raises:
        NothingMerges: no method of any of them merges tokens.
        ConfigError, ModelFolderError: the run or its base is not there.
    """
    from vlt.export import trained_model

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
    return _short(name), config


def _model(title: str, config: ConfigDict, load: Callable[[], LoadedModel]) -> Model | None:
    """None where nothing merges."""
    module, _, _ = build_described(config.model)
    if not any(type(method).__module__.startswith("vlt.merging.") for method in module.methods):
        return None
    if not config.evals:
        raise ValueError(f"{title}: config.evals is empty; its first says which frames are sampled")
    section = next(iter(config.evals.values()))
    visual = module.spec.visual
    size = visual.image_size
    request = ClipRequest(
        path="",
        sampler=section.sampler.name,
        frames=section.sampler.frames,
        # Generated clips have the model's size as they are; anybody's own videos may not.
        transform=section.transform.to_dict() or {"resize": size, "crop": size},
        backend=section.backend,
        allow_truncated=section.allow_truncated,
    )
    names = " + ".join(type(method).__name__ for method in module.methods)
    title = title if title == names else f"{title} ({names})"
    return Model(title, visual.layers, request, load)


def _that_merge(models: Sequence[Model | None], name: str) -> list[Model]:
    found = [model for model in models if model is not None]
    if not found:
        raise NothingMerges(f"{name}: no method of vlt/merging is in config.model.methods")
    return found


def token_maps(
    model: DualEncoder, params: Any, clips: Sequence[np.ndarray], layers: Sequence[int]
) -> list[list[TokenMap]]:
    """[clip][layer] of uint8 clips [t, H, W, 3] of one shape.

    All tokens of every block are computed. A patch is in the token that has more than half of it.
    """
    model = model.clone(cls_only=False)
    side = model.spec.visual.image_size // model.spec.visual.patch_size

    @jax.jit
    def encode(params: Any, clip: jax.Array) -> list[tuple[jax.Array, int, int]]:
        variables = {"params": params}
        _, out = model.apply(variables, clip[None], capture=True, method="encode_video")
        before = math.prod(out["stem"].x.shape[1:3])
        blocks = [out[f"block_{layer}"] for layer in layers]
        owners = [_owner(block.members).reshape(-1, side, side) for block in blocks]
        left = [math.prod(block.x.shape[1:3]) for block in blocks]
        return [(owner, count, before) for owner, count in zip(owners, left, strict=True)]

    params = jax.device_put(params)
    found = [jax.device_get(encode(params, clip)) for clip in clips]
    return [[TokenMap(owner, int(n), int(before)) for owner, n, before in each] for each in found]


def _owner(members: jax.Array) -> jax.Array:
    """Shares [1, g, n, patches] -> tokens [patches], counted through all groups."""
    members = members.reshape(-1, members.shape[-1])
    return jnp.where(members.max(0) > 0.5, members.argmax(0), PRUNED)


def paint(frames: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Frames with the patches of each token in their mean colour, and a border around each region.

    Patches that are alone in their token stay as they are; patches in none become dark.

    Args:
        frames: uint8 [t, H, W, 3]. tokens: int [t, rows, cols], the token of each patch or PRUNED;
            rows and cols divide H and W.

    Returns:
        uint8 [t, H, W, 3]
    """
    patch = frames.shape[1] // tokens.shape[1]
    pixels = tokens.repeat(patch, 1).repeat(frames.shape[2] // tokens.shape[2], 2)
    count = np.bincount(tokens[tokens != PRUNED], minlength=tokens.max() + 1)
    kept = np.where(pixels == PRUNED, 0, pixels)
    merged = (pixels != PRUNED) & (count[kept] > 1)
    out = frames.copy()
    out[merged] = _means(frames, pixels, len(count))[pixels[merged]]
    outline = merged & _outline(pixels, max(1, patch // 8))
    out[outline] = PALETTE[border_colors(tokens)][pixels[outline]]
    out[pixels == PRUNED] = frames[pixels == PRUNED] // 5
    return out


def _means(frames: np.ndarray, pixels: np.ndarray, count: int) -> np.ndarray:
    """Mean colours [count, 3] of the pixels of each token."""
    flat, inside = pixels.ravel(), pixels.ravel() != PRUNED
    channels = frames.reshape(-1, 3)[inside].astype(np.float64)
    sums = [np.bincount(flat[inside], channel, count) for channel in channels.T]
    area = np.bincount(flat[inside], minlength=count).clip(1)
    return np.round(np.stack(sums, -1) / area[:, None]).astype(np.uint8)


def _outline(pixels: np.ndarray, width: int) -> np.ndarray:
    """Whether another token, or the frame's edge, is within `width` pixels: bool [t, H, W]."""
    low = high = np.pad(
        pixels, ((0, 0), (width, width), (width, width)), constant_values=PRUNED - 1
    )
    for axis in (1, 2):
        windows = functools.partial(
            np.lib.stride_tricks.sliding_window_view, window_shape=2 * width + 1, axis=axis
        )
        low, high = windows(low).min(-1), windows(high).max(-1)
    return low != high


def border_colors(tokens: np.ndarray) -> np.ndarray:
    """For each token a row of PALETTE, unlike those of its neighbours.

    Neighbours are tokens of patches side by side, and of the same place in the next frame: a
    border changes its colour from frame to frame unless it is of the same token.

    Args:
        tokens: int [t, rows, cols].

    Returns:
        int [tokens.max() + 1]
    """
    neighbours = _neighbours(tokens)
    colors = np.full(tokens.max() + 1, -1)
    uses = np.zeros(len(PALETTE), int)
    sizes = Counter(tokens[tokens != PRUNED].tolist())
    # Tokens that are alone have no border.
    for token in sorted(token for token, size in sizes.items() if size > 1):
        taken = np.zeros(len(PALETTE))
        for other, length in neighbours.get(token, {}).items():
            if colors[other] >= 0:
                taken[colors[other]] += length
        colors[token] = np.lexsort((uses, taken))[0]
        uses[colors[token]] += 1
    return colors


def _neighbours(tokens: np.ndarray) -> dict[int, dict[int, int]]:
    """{token: {its neighbour: how much they touch}}."""
    found: dict[int, dict[int, int]] = {}
    for axis, weight in ((0, 1), (1, 1000), (2, 1000)):
        first = tokens.swapaxes(0, axis)[:-1].ravel()
        second = tokens.swapaxes(0, axis)[1:].ravel()
        apart = (first != second) & (first != PRUNED) & (second != PRUNED)
        pairs = Counter(zip(first[apart].tolist(), second[apart].tolist(), strict=True))
        for (a, b), length in pairs.items():
            for one, other in ((a, b), (b, a)):
                touching = found.setdefault(one, {})
                touching[other] = touching.get(other, 0) + weight * length
    return found


def picture(title: str, rows: Sequence[tuple[str, np.ndarray]], caption: str) -> Image.Image:
    """Rows of frames, each under its title; long rows continue below, all rows of a part together.

    rows: (title, uint8 [t, H, W, 3]), the same shape in all.
    """
    count, height, width = rows[0][1].shape[:3]
    columns = min(count, COLUMNS)
    parts = [range(start, min(start + columns, count)) for start in range(0, count, columns)]
    inner = columns * (width + GAP) - GAP
    lines = [title, caption, *(name for name, _ in rows)]
    font = _font(lines, inner)
    line = int(1.7 * font.size)
    total = MARGIN + line + len(parts) * len(rows) * (line + height + GAP) + line + MARGIN
    image = Image.new("RGB", (inner + 2 * MARGIN, total), PAGE)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN), title, "black", font)
    y = MARGIN + line
    for part in parts:
        shown = f", frames {part[0] + 1} to {part[-1] + 1}" if len(parts) > 1 else ""
        for name, frames in rows:
            pen.text((MARGIN, y + 0.3 * font.size), name + shown, "black", font)
            y += line
            for column, frame in enumerate(part):
                x = MARGIN + column * (width + GAP)
                image.paste(Image.fromarray(frames[frame]), (x, y))
            y += height + GAP
    pen.text((MARGIN, y + 0.3 * font.size), caption, "black", font)
    return image


def _font(lines: Sequence[str], width: int) -> Any:
    """As large as reads well, and small enough for the longest line."""
    font = ImageFont.load_default(100)
    longest = max(font.getlength(line) for line in lines)
    return ImageFont.load_default(int(min(max(15, width / 90), 100 * width / longest)))


def draw(
    models: Sequence[Model], videos: Sequence[str], layers: Sequence[int] = (), note: str = ""
) -> list[Image.Image]:
    """A picture of each video. layers: blocks, from 0; the last by default. note: for the title.

    Raises:
        VideoError: a file is not a video, or a broken one.
        ValueError: models that sample frames differently, or a layer that they do not have.
    """
    request = _common_request(models, layers)
    paths = [str(resolve(video)) for video in videos]
    clips = [read_clip(dataclasses.replace(request, path=path)) for path in paths]
    rows: list[list[tuple[str, np.ndarray]]] = [
        [(f"{len(clip)} frames ({request.sampler})", clip)] for clip in map(_enlarge, clips)
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
    caption = "Patches with one fill and border, in all frames, are one token; others are alone."
    if pruned:
        caption += " Dark ones are in none."
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


def _enlarge(clip: np.ndarray) -> np.ndarray:
    """Small frames by a whole factor, pixels as they are."""
    factor = max(1, SIDE // clip.shape[1])
    return clip.repeat(factor, 1).repeat(factor, 2)


def save(pictures: Sequence[Image.Image], videos: Sequence[str], folder: Path) -> list[Path]:
    """Writes folder/VIDEO.png for each; videos of the same name are numbered."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: Counter[str] = Counter()
    files = []
    for image, video in zip(pictures, videos, strict=True):
        stem = Path(video).stem
        seen[stem] += 1
        files.append(folder / f"{stem}{f'-{seen[stem]}' if seen[stem] > 1 else ''}.png")
        image.save(files[-1])
    return files


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    from vlt.checkpoint import CheckpointError
    from vlt.data.errors import VideoError
    from vlt.model_folder import ModelFolderError

    options, videos = flags.FLAGS, arguments[1:]
    logging.set_verbosity(logging.WARNING)
    try:
        models = [model for run in options.workdir for model in of_run(Path(run))]
        if options.config is not None:
            flag = options["config"]
            models += of_config(
                config_flags.get_config_filename(flag),
                config_flags.get_override_values(flag),
                options.against,
                options.random,
            )
        if not models or not videos:
            raise ValueError("a video and --config or --workdir are needed")
        note = ", random weights" if options.random else ""
        pictures = draw(models, videos, tuple(options.layer), note)
    except ModelFolderError as error:
        sys.exit(f"error: {error}; --random draws without weights")
    except (CheckpointError, ValueError, VideoError) as error:
        sys.exit(f"error: {error}")
    for file in save(pictures, videos, Path(options.out)):
        print(file)


if __name__ == "__main__":
    try:
        configuration.check_flags(sys.argv)
    except configuration.ConfigError as wrong:
        sys.exit(f"error: {wrong}")
    config_flags.DEFINE_config_file("config", None, "configs/FILE.py[:variant]")
    flags.DEFINE_multi_string("against", [], "Another config to draw first.")
    flags.DEFINE_multi_string("workdir", [], "A trained run, or a folder of runs.")
    flags.DEFINE_multi_integer("layer", [], "A block to draw after, instead of the last.")
    flags.DEFINE_bool("random", False, "Random weights.")
    flags.DEFINE_string("out", None, "Folder of the pictures.", required=True)
    app.run(main)
