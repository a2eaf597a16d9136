"""`vlt.index(...)`: an index of one's own videos, made, brought up to date, opened."""

import contextlib
import importlib.util
import json
import os
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlt.api import load
from vlt.configuration import is_run
from vlt.data.video.spans import NEEDED
from vlt.door import load_kind
from vlt.indexing.embedding import BATCH, Encode, Watch, update
from vlt.indexing.index import Index
from vlt.indexing.neighbours import prepare
from vlt.indexing.parts import FINISHED, Shard, known_before
from vlt.indexing.rows import About, FileEntry
from vlt.indexing.store import Store, StoreError, writing
from vlt.indexing.windows import WindowRule
from vlt.inference.discover import find_videos
from vlt.inference.prefetch import clip_request
from vlt.runtime.mesh import batch_sharding, make_mesh, replicated

KINDS = ("dual_encoder", "retriever")
LACKS = "has no space that videos and texts share"


def index(
    uri: str | Path,
    videos: Iterable[str] = (),
    model: Any = None,
    window: str = "4s",
    stride: str | None = None,
) -> Index:
    """Opens an index of videos, brought up to date with `videos` if any are given.

    Args:
        uri: a folder, or s3://..., gs://...
        videos: files, folders and patterns.
        model: as `vlt.load` returns it, or its folder; by default the model of the index.
        window, stride: as `vlt embed` takes them.

    Raises:
        StoreError: there is no index, and no videos or no model; or it has another model or other
            windows.
        ValueError: a folder without a video file, or an invalid window.
    """
    if model is None:
        model = model_of(Store(str(uri)))
    elif isinstance(model, (str, Path)):
        model = load(model)
    paths = find_videos([videos] if isinstance(videos, str) else videos)
    if paths:
        with contextlib.closing(embed(str(uri), paths, model, window, stride)) as found:
            for _ in found:
                pass
    return Index(str(uri), model)


def embed(
    uri: str,
    paths: Sequence[str],
    model: Any,
    window: str = "4s",
    stride: str | None = None,
    dtype: str = "float16",
    name: str = "",
    way: str = "auto",
    shard: Shard | None = None,
    watch: Watch = lambda *_: None,
) -> Generator[FileEntry, None, None]:
    """Brings an index up to date; yields each video that was embedded, or could not be read.

    Args:
        name: the model's, by which the index finds it again.
        way: how windows are to be found, one of `neighbours.WAYS`.
        shard: whose videos alone are embedded, into a part for `parts.commit`.
        watch: is told, for progress, of the last windows that were embedded.

    Raises:
        StoreError, ValueError: as `index`.
    """
    rule = WindowRule.parse(window, stride)
    if rule.kind == "shots" and importlib.util.find_spec("scenedetect") is None:
        raise ValueError(f"--window=shots: {NEEDED}")
    refuse_pair_scores(model)
    look = clip_request(model.config, "")
    about = About(
        name,
        model.fingerprint,
        model.module.spec.embed_dim,
        look.sampler,
        look.frames,
        json.loads(json.dumps(look.transform)),
        rule.kind,
        rule.length,
        rule.stride,
        dtype,
        folder=os.getcwd(),
    )
    part = shard.part if shard else ""
    with writing(uri, part):
        elsewhere: dict[str, FileEntry] = {}
        if shard:
            elsewhere, paths = known_before(uri, about), shard.of(paths)
        store = Store.open_or_create(uri, about, part)
        store.mark(FINISHED, here=False)
        batch = BATCH * jax.local_device_count()
        yield from update(store, paths, encoder(model), look, rule, elsewhere, batch, watch)
        if shard:
            store.mark(FINISHED)
        else:
            prepare(store, way)


def model_of(store: Store, model: str | None = None, workdir: Path | None = None) -> Any:
    """Loads the model of an index: the one that made it, unless another folder or run is named.

    Raises:
        StoreError: the index does not say where its model is. Also whatever `load_kind` raises.
    """
    name = model or store.about.model
    if workdir is None and not name:
        raise StoreError(f"{store.uri} does not say where its model is; name it")
    if workdir is None and not model and is_run(Path(name)):
        workdir = Path(name)
    return load_kind(name, workdir, KINDS, LACKS)


def refuse_pair_scores(model: Any) -> None:
    """Raises ValueError for a model whose videos have no vector apart from texts."""
    if model.module.scores_pairs:
        names = ", ".join(method.name for method in model.module.methods if method.scores_pairs)
        raise ValueError(f"{names} reads videos and texts together; vectors of videos are needed")


def encoder(model: Any) -> Encode:
    """uint8 [b, t, H, W, 3] -> unit vectors [b, e], on all devices of this process, of whose number
    b must be a multiple; copies the model to each of them."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return lambda frames: np.asarray(model.encode_video(frames), np.float32)
    mesh = make_mesh({"data": len(devices)}, devices)
    model.params = jax.device_put(model.params, replicated(mesh))

    def encode(frames: np.ndarray) -> np.ndarray:
        placed = jax.device_put(frames, batch_sharding(mesh))
        return np.asarray(model.encode_video(placed), np.float32)

    return encode
