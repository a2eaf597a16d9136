"""Caches what a chat model's frozen tower computes for videos, so that training can skip it.

    python -m data_pipelines.features data/video_instruct/VideoInstruct100K.jsonl
        --model checkpoints/llava_btadapter --out data/video_instruct_features [--frames 100]
        [--sampler conversation_middle]

writes an .npz file for each video of a manifest, with its states after the last block of the tower
that no trained part reads (for LLaVA with BT-Adapter the fourth from the end, after 20 of 24),
float16 [frames, 1 + patches, width], and OUT/manifest.jsonl: the manifest's rows with a column
`features`. The same command resumes where it was stopped; OUT/features.json says which model made
the files, and a folder of another model is refused. Videos that cannot be read are listed in
OUT/broken.jsonl, and the status is 1.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from data_pipelines.manifests import write_lines
from vlt.command_line import why
from vlt.data.manifests.features import FeatureError, read_features, write_features
from vlt.data.manifests.manifest import read_manifest
from vlt.data.manifests.rows import ManifestError, json_rows
from vlt.data.text.text_files import read_json
from vlt.data.video.checksum import verify
from vlt.data.video.errors import VideoError
from vlt.inference.batching import map_videos
from vlt.inference.prefetch import clip_request
from vlt.model_io.folder import ModelConfig, ModelFolderError
from vlt.model_io.loading import LoadedModel, load_folder
from vlt.models.spec import ChatSpec
from vlt.pytrees.checksum import checksums
from vlt.pytrees.paths import by_path
from vlt.storage.files import shortened, write_whole

SHOWN = 5  # examples in a message
LONGEST_STEM = 80  # bytes


def cache_features(
    manifest: pathlib.Path,
    model: str,
    out: pathlib.Path,
    frames: int | None = None,
    sampler: str | None = None,
) -> tuple[int, dict[str, str]]:
    """Writes the features of all videos of a manifest that are not in OUT yet.

    frames, sampler: number and rule of vlt.data.video.sample; by default the model folder's.

    Returns: number of videos written, and the reason for each that could not be, by video.

    Raises:
        ManifestError, ModelFolderError: the manifest or the model folder cannot be read, or a row
            has a value that JSON cannot hold.
        FeatureError: not a chat model, one whose tower is too small to cache, or OUT has features
            of another model, of other frames, or a damaged file.
        ValueError: an unknown sampler, or a random one. WriteError: OUT cannot be written.
    """
    records = read_manifest(manifest, check_videos=False)
    rows = [row for _, row in json_rows(manifest)]
    sums = {record.video: record.sha256 for record in records if record.sha256}
    loaded = load_folder(model, frames=frames)
    config, states = _config(loaded, model, frames, sampler), _states(loaded, model)
    shape = _check_folder(out, _settings(loaded, config))
    files = {record.video: _file(out, record.video, manifest.parent) for record in records}
    waiting = [video for video, file in files.items() if not _is_there(file, shape)]
    print(f"{len(waiting):,} of {len(files):,} videos are read", flush=True)
    broken: dict[str, str] = {}
    with contextlib.closing(map_videos(states, config, waiting)) as found:
        for video, features in found:
            try:
                if isinstance(features, VideoError):
                    raise features
                if video in sums:
                    verify(video, sums[video])
                write_features(files[video], features)
            except VideoError as error:
                broken[video] = str(error)
    names = [files[record.video].name * (record.video not in broken) for record in records]
    _write_manifest(manifest, out, rows, names)
    lines = [json.dumps({"video": v, "error": e}, ensure_ascii=False) for v, e in broken.items()]
    write_lines(out / "broken.jsonl", lines)
    return len(waiting) - len(broken), broken


def _config(
    loaded: LoadedModel, model: str, frames: int | None, sampler: str | None
) -> ModelConfig:
    if not isinstance(loaded.config.spec, ChatSpec):
        raise FeatureError(f"{model} is a {loaded.config.spec.kind}, no chat model")
    if not loaded.config.spec.feature_blocks:
        layers = loaded.config.spec.visual.layers
        raise FeatureError(f"{model}: of a tower of {layers} blocks no state can be cached")
    view = loaded.config.view
    view = dataclasses.replace(view, frames=frames or view.frames, sampler=sampler or view.sampler)
    view.check(loaded.config.spec)
    return dataclasses.replace(loaded.config, view=view)


def _states(loaded: LoadedModel, model: str) -> Callable[[np.ndarray], list[np.ndarray]]:
    """uint8 [b, t, H, W, 3] -> float32 [b, t, n, d]."""
    block = f"block_{loaded.config.spec.feature_blocks - 1}"  # type: ignore[union-attr]
    params = {"visual": jax.device_put(loaded.params["visual"])}

    def of_block(module: Any, video: jax.Array) -> jax.Array:
        # Later blocks are not computed, since nothing reads them.
        return module.visual(module.pixels(video), capture=True)[1][block].x

    program = jax.jit(lambda p, x: loaded.module.apply({"params": p}, x, method=of_block))
    return lambda videos: list(np.asarray(program(params, videos), np.float32))


def _settings(loaded: LoadedModel, config: ModelConfig) -> dict[str, Any]:
    """What features depend on; for the weights, a checksum of those that compute them."""
    spec, request = loaded.config.spec, clip_request(config, "")
    blocks = {f"blocks_{layer}" for layer in range(spec.feature_blocks)}  # type: ignore[union-attr]
    kept = {"patch_embedding", "class_embedding", "position_embedding", "pre_norm", *blocks}
    leaves = by_path({k: v for k, v in loaded.params["visual"].items() if k in kept})
    sums = json.dumps(sorted(checksums(leaves).items())).encode()
    visual = spec.visual
    return {
        "weights": hashlib.sha256(sums).hexdigest(),
        "blocks": len(blocks),
        "shape": [request.frames, visual.cls + visual.patches, visual.width],
        "sampler": request.sampler,
        "transform": json.loads(json.dumps(request.transform)),
    }


def _check_folder(out: pathlib.Path, settings: dict[str, Any]) -> list[int]:
    """Returns the shape of the folder's features; writes features.json if there is none."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "features.json"
    if not path.exists():
        write_whole(path, json.dumps(settings, indent=1) + "\n")
    there = read_json(path)
    differ = [
        key for key in settings if not isinstance(there, dict) or there.get(key) != settings[key]
    ]
    if differ:
        raise FeatureError(f"{path} is of others ({', '.join(differ)} differ); take another folder")
    return list(settings["shape"])


def _file(out: pathlib.Path, video: str, folder: pathlib.Path) -> pathlib.Path:
    """A video's file: its name with a hash of its relative path, since names may repeat."""
    way = os.path.relpath(video, folder)
    sign = hashlib.sha256(way.encode()).hexdigest()[:8]
    return out / f"{shortened(pathlib.Path(video).stem, LONGEST_STEM)}-{sign}.npz"


def _is_there(file: pathlib.Path, shape: Sequence[int]) -> bool:
    """Whether the file exists; raises FeatureError if it is damaged or of another shape."""
    if not file.exists():
        return False
    found = read_features(file).shape
    if list(found) != list(shape):
        raise FeatureError(f"{file}: features {list(found)}, must be {list(shape)}; remove it")
    return True


def _write_manifest(
    manifest: pathlib.Path,
    out: pathlib.Path,
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
) -> None:
    """Writes the rows that have a file of features, with paths relative to OUT."""
    # Of the folders themselves, since `..` does not lead back over a link.
    here, there = os.path.realpath(manifest.parent), os.path.realpath(out)
    lines = []
    for row, name in zip(rows, names, strict=True):
        if name:
            video = os.path.relpath(os.path.join(here, row["video"]), there)
            lines.append(json.dumps({**row, "video": video, "features": name}, ensure_ascii=False))
    write_lines(out / "manifest.jsonl", lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=pathlib.Path, metavar="MANIFEST")
    parser.add_argument("--model", required=True, help="folder of a chat model")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the features")
    parser.add_argument("--frames", type=int, help="of each video; the folder's by default")
    parser.add_argument("--sampler", help="which frames; the folder's rule by default")
    given = parser.parse_args(arguments)
    if given.frames is not None and given.frames < 1:
        parser.error(f"--frames must be >= 1, got {given.frames}")
    try:
        written, broken = cache_features(**vars(given))
    except (FeatureError, ManifestError, ModelFolderError, ValueError, OSError) as error:
        print(f"error: {why(error)}", file=sys.stderr)
        return 2
    print(f"{given.out}: features of {written:,} videos written, {len(broken):,} broken")
    for video, reason in list(broken.items())[:SHOWN]:
        print(f"{video}: {reason}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
