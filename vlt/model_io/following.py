"""Configs in which only the checkpoint was changed: what else follows from that."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from vlt.configuration import apply_overrides
from vlt.configuration.published import FOLDER
from vlt.data.manifests.resources import is_made, resolve
from vlt.data.moving_shapes.scene import SIZE
from vlt.data.video.transform import final_size, with_side
from vlt.model_io.folder import read_model_config
from vlt.model_io.loading import as_asked
from vlt.models.sizes import SIZES
from vlt.models.spec import EncoderSpec, Spec, TextSpec

CHECKPOINT, SIZE_KEY, CONTEXT = "model.checkpoint", "model.size", "model.context"


def follow_checkpoint(config: ConfigDict, typed: Collection[str]) -> ConfigDict:
    """The config, and the rows of its comparison, with what the checkpoint says if only that was
    replaced: `model.size`, `model.context` (at most the tower's, or all of it if texts fill it up)
    and the sizes of frames in all transforms. Changes are logged.

    A size that was also replaced, by anything but '', is taken at its word, and so is each of the
    other keys. Methods' options stay as they are. Nothing changes if the size fits, or if the
    folder is neither there nor `checkpoints/NAME`, where NAME is that of a known size.

    Args:
        typed: dotted keys that were replaced by hand.

    Raises:
        ModelFolderError: the folder is not a complete model folder.
    """
    config = _told(config, typed)
    rows = []
    for title, overrides in config.get("compare", ()):
        own = dict(overrides)
        row = apply_overrides(config, own)
        named = {*typed, *({CHECKPOINT, SIZE_KEY} & own.keys())}
        changes = {} if SIZE_KEY in own else _changes(row, named)
        _tell(title, row, changes)
        rows.append((title, own | changes))
    return apply_overrides(config, {"compare": tuple(rows)}) if rows else config


def _told(config: ConfigDict, typed: Collection[str]) -> ConfigDict:
    changes = _changes(config, typed)
    _tell("config", config, changes)
    return apply_overrides(config, changes) if changes else config


def _tell(what: str, config: ConfigDict, changes: Mapping[str, Any]) -> None:
    if changes:
        told = ", ".join(f"{key}={value!r}" for key, value in changes.items())
        logging.warning(
            "%s: sizes, context and frame size as %s says: %s", what, config.model.checkpoint, told
        )


def _changes(config: ConfigDict, typed: Collection[str]) -> dict[str, Any]:
    """{key: value} that follow from the checkpoint, without keys that were typed."""
    model = config.model
    if CHECKPOINT not in typed or (SIZE_KEY in typed and model.size):
        return {}
    size, spec = _described(model.checkpoint)
    if spec is None or _fits(model, spec):
        return {}
    found = {SIZE_KEY: size, CONTEXT: _context(model.context, spec)}
    found |= dict(_transforms(config, spec.visual.image_size))
    now = {SIZE_KEY: model.size, CONTEXT: model.context}
    return {
        key: value
        for key, value in found.items()
        if now.get(key) != value and not any(f"{name}.".startswith(f"{key}.") for name in typed)
    }


def _fits(model: Mapping[str, Any], spec: Spec) -> bool:
    named = SIZES.get(model["size"])
    return named is not None and as_asked(named, model) == as_asked(spec, model)


def _described(checkpoint: str) -> tuple[str, Spec | None]:
    """`model.size` and sizes of a checkpoint; None if nothing tells them."""
    folder = resolve(checkpoint) if checkpoint else None
    if folder is not None and folder.exists():
        return "", read_model_config(folder).spec
    if folder is not None and folder.parent.name == FOLDER and folder.name in SIZES:
        return folder.name, SIZES[folder.name]
    return "", None


def _context(context: int, spec: Spec) -> int:
    if isinstance(spec, EncoderSpec):
        return context
    whole = isinstance(spec.text, TextSpec) and spec.text.whole
    return spec.text.context if whole else min(context, spec.text.context)


def _transforms(config: ConfigDict, side: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields key and steps of the transforms whose frames have another size."""
    sections = {f"evals.{name}": section for name, section in config.evals.items()}
    for name, section in {"data.train": config.data.train, **sections}.items():
        if "transform" not in section:
            continue
        steps = section.transform.to_dict()
        if not final_size(steps)[0] and is_made(section.manifest):
            steps |= {"resize": SIZE, "crop": SIZE}  # the size of generated frames
        changed = with_side(steps, side)
        if changed != steps:
            yield f"{name}.transform", changed
