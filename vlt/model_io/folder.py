"""A model folder: all that a converted or trained model needs to run, with no network.

    config.json   sizes, methods with options, preprocessing, frames, where it came from
    weights/      the parameter tree (Orbax)
    tokenizer/    Hugging Face tokenizer files; in qformer/ those of an instruction (InstructBLIP)
    report.txt    how it was made

It is written under another name and renamed when whole, so a folder with a config.json is complete.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlt.configuration.checkpoints import how_to_get
from vlt.data.text.tokenize import TOKENIZER_NAMES, copy_tokenizer
from vlt.data.video.transform import INTERPOLATIONS
from vlt.model_io.build import abstract_params, make_model
from vlt.model_io.view import View
from vlt.models.spec import Spec
from vlt.models.spec_reading import spec_from_dict
from vlt.models.video_model import ANY_FRAMES
from vlt.pytrees.fields import from_values, near, shown
from vlt.pytrees.paths import by_path
from vlt.storage.files import (
    WriteError,
    check_target,
    foreign_entries,
    listed,
    unfinished_name,
)
from vlt.storage.trees import CheckpointError, check_same, load_shapes, load_tree, save_tree

_FORMAT = 1
QFORMER = "qformer"  # subfolder of the tokenizer's folder
CROPS = ("center", "none")
LARGEST_CONFIG = 2**20  # bytes of a config.json
# Orbax's files, written by several processes, or in pieces by one.
_WEIGHTS_FILES = (
    r"_CHECKPOINT_METADATA|orbax\.checkpoint|commit_success\.txt|state|"
    r"state/(_METADATA|_sharding|array_metadatas(/process_\d+)?|"
    r"(ocdbt\.process_[0-9a-f]+/)?(manifest\.ocdbt|d(/[0-9a-f]+)?)|ocdbt\.process_[0-9a-f]+)"
)


class ModelFolderError(Exception):
    """A model folder is absent, half written, of another format or of another model."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What config.json says.

    methods: {name: options}. preprocessing: image_size, mean and std of 0-1 pixels, resize, crop.
    frames: number of frames the model was trained with, if any. frame_norm: whether frame
    embeddings are normalised to unit length before they are averaged. source: layout of the
    published checkpoint, for conversion back. view: what of a video the model is evaluated on.
    """

    family: str
    spec: Spec
    methods: dict[str, dict[str, Any]]
    preprocessing: dict[str, Any]
    frames: int | None = None
    frame_norm: bool = False
    source: dict[str, Any] = dataclasses.field(default_factory=dict)
    view: View = View()

    def to_dict(self) -> dict[str, Any]:
        """The fields as they are in config.json."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields |= {"spec": self.spec.to_dict(), "view": self.view.to_dict()}
        return {"format": _FORMAT} | fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ModelConfig":
        """Inverse of `to_dict`.

        Raises:
            ValueError: a field is missing, unknown, of another type or out of range, or methods do
                not fit; the message names the field.
        """
        rest = {key: value for key, value in fields.items() if key not in ("format", "spec")}
        spec = spec_from_dict(fields.get("spec"))
        config = from_values(cls, rest | {"spec": spec}, "config")
        _check_pixels(config.preprocessing, spec)
        _check_source(config.source)
        config.view.check(spec)
        make_model(spec, config.methods, ANY_FRAMES if config.frames is None else config.frames)
        return config


@dataclasses.dataclass(frozen=True)
class _Pixels:
    """`preprocessing`, see `ModelConfig`."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str = "bicubic"
    crop: str = "none"


def _check_pixels(preprocessing: Any, spec: Spec) -> None:
    pixels = from_values(_Pixels, preprocessing, "preprocessing")
    if pixels.image_size != spec.visual.image_size:
        raise ValueError(
            f"preprocessing.image_size={pixels.image_size}: the vision tower takes "
            f"{spec.visual.image_size}"
        )
    if min(pixels.std) <= 0:
        raise ValueError(f"preprocessing.std must be numbers > 0, got {pixels.std}")
    for name, known in (("resize", INTERPOLATIONS), ("crop", CROPS)):
        if (value := getattr(pixels, name)) not in known:
            raise ValueError(f"preprocessing.{name}={shown(value)}{near(value, known)}")


@dataclasses.dataclass(frozen=True)
class _Source:
    """`source`, see `ModelConfig`: what `vlt.convert` recorded."""

    layout: str = ""
    file: str = ""
    base: str = ""
    dtypes: dict[str, str] = dataclasses.field(default_factory=dict)
    aliases: dict[str, str] = dataclasses.field(default_factory=dict)
    parts: dict[str, Any] = dataclasses.field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    taken_off: tuple[str, ...] = ()
    stacked: bool = False


def _check_source(source: Any) -> None:
    found = from_values(_Source, source, "source")
    for field, texts in (("dtypes", found.dtypes), ("aliases", found.aliases)):
        for name, text in texts.items():
            if type(text) is not str:
                raise ValueError(f"source.{field}: {shown(name)} must be a text, got {shown(text)}")


def write_model_folder(
    folder: str | Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    tokenizer: Path,
    report: str = "",
    overwrite: bool = False,
) -> None:
    """Writes a whole model folder, or nothing. tokenizer: a folder whose files are copied.

    Raises:
        ModelFolderError: the folder exists, and `overwrite` is off, it is not a model folder, or it
            holds more than one does.
        CheckpointSaveError, WriteError: it could not be written.
    """
    with new_folder(Path(folder), overwrite, MODEL_FOLDER) as unfinished:
        save_tree(unfinished / "weights", params)
        write_beside_weights(unfinished, config, tokenizer, report)


def write_beside_weights(folder: Path, config: ModelConfig, tokenizer: Path, report: str) -> None:
    """Writes what a model folder holds beside its weights into one that is being made.

    Raises:
        ModelFolderError: a tokenizer file is not a plain file inside its folder.
    """
    try:
        copy_tokenizer(tokenizer, folder / "tokenizer")
        if (tokenizer / QFORMER).is_dir():
            copy_tokenizer(tokenizer / QFORMER, folder / "tokenizer" / QFORMER)
    except ValueError as error:
        raise ModelFolderError(str(error)) from error
    (folder / "report.txt").write_text(report, encoding="utf-8")
    text = json.dumps(config.to_dict(), indent=1)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def read_model_config(folder: str | Path) -> ModelConfig:
    """Reads config.json alone.

    Raises:
        ModelFolderError: no such folder, not a model folder, half written or of another format.
    """
    path = Path(folder) / "config.json"
    if path.parent.is_file():
        raise ModelFolderError(
            f"{folder}: a file, not a model folder; python -m vlt.convert makes one of a checkpoint"
        )
    if not path.parent.is_dir():
        raise ModelFolderError(f"{folder}: no such folder{how_to_get(folder)}")
    if not path.exists():
        raise ModelFolderError(
            f"{folder}: no config.json, so half written or not a model folder; "
            "make one with python -m vlt.convert"
        )
    fields = _read_json(path)
    found = fields.get("format")
    if found != _FORMAT:
        raise ModelFolderError(f"{path}: format is {shown(found)}, not {_FORMAT}{_kin(fields)}")
    try:
        return ModelConfig.from_dict(fields)
    except ValueError as error:
        raise ModelFolderError(f"{path}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ModelFolderError(f"{path}: more than {LARGEST_CONFIG} bytes, so no config")
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise ModelFolderError(f"{path}: not readable JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ModelFolderError(
            f"{path}: must hold an object {{key: value, ...}}, holds {shown(fields)}"
        )
    return fields


def _kin(fields: Mapping[str, Any]) -> str:
    """What to do with a folder of another kind that has a config.json."""
    if "model_type" in fields:
        return "; a Hugging Face folder must be converted first"
    if "train" in fields and "model" in fields:
        return "; of the folder of a run, python -m vlt.export makes a model folder"
    return ""


def read_model_folder(
    folder: str | Path,
    abstract: Mapping[str, Any] | None = None,
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> tuple[ModelConfig, dict[str, Any]]:
    """Reads config and parameters, checked against the shapes of the model the config describes.

    abstract: shapes, with shardings if leaves belong on devices; the model's own when absent.
    change: as in `vlt.storage.trees.load_tree`. Leaves that are stored in 16 bits stay so.

    Raises:
        ModelFolderError: as `read_model_config`, or the weights are absent, damaged, or of another
            model (every difference is listed).
    """
    config = read_model_config(folder)
    try:
        if abstract is None:
            abstract = model_shapes(config.spec, config.methods, config.frames)
        return config, load_tree(Path(folder) / "weights", abstract, True, change)
    except (CheckpointError, ValueError) as error:
        raise ModelFolderError(f"{folder}: {error}") from error


def check_weights(folder: Path) -> None:
    """Raises ModelFolderError if weights are absent, or their shapes are not those of the model
    that the folder's config describes; reads no values."""
    config, weights = read_model_config(folder), folder / "weights"
    try:
        wanted = model_shapes(config.spec, config.methods, config.frames)
        check_same(weights, by_path(load_shapes(weights)), by_path(wanted), halves=True)
    except (CheckpointError, ValueError) as error:
        raise ModelFolderError(f"{folder}: {error}") from error


def model_shapes(
    spec: Spec, methods: Mapping[str, Mapping[str, Any]], frames: int | None = None
) -> dict[str, Any]:
    """Abstract parameter tree of a model with its methods.

    Raises:
        ValueError: unknown method or option, or options that do not fit the sizes or the frames.
    """
    return abstract_params(make_model(spec, methods, frames or ANY_FRAMES))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of folder or file that is written whole, and replaced whole.

    what: its name. recognized: tells whether a path is one. entries: matches relative paths
    of what it holds; None for a file.
    """

    what: str
    recognized: Callable[[Path], bool]
    entries: re.Pattern[str] | None = None


@contextmanager
def new_folder(folder: Path, overwrite: bool, kind: Kind) -> Iterator[Path]:
    """Yields a folder to fill; if the block succeeds, it becomes `folder` or takes its place.

    Raises:
        ModelFolderError, WriteError: as `check_replaceable`; nothing was changed.
        WriteError: there is no room to write, or no permission.
    """
    folder = folder.absolute()
    check_replaceable(folder, overwrite, kind)
    unfinished = unfinished_name(folder)
    unfinished.mkdir()
    try:
        yield unfinished
        check_replaceable(folder, overwrite, kind)  # keeps what came there in the meantime, too
        replaced = unfinished_name(folder)
        if folder.exists():
            folder.rename(replaced)
        unfinished.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_replaceable(target: Path, overwrite: bool, kind: Kind) -> None:
    """Checks, before any work, that something can be written at `target` and nothing is lost.

    Raises:
        ModelFolderError: something is there, and `overwrite` is off, or it is not of the kind, or
            it holds what is never written there (which is listed).
        WriteError: it is a link, or nothing can be written there.
    """
    check_target(target)
    if not target.exists():
        return
    if not overwrite:
        raise ModelFolderError(f"{target} exists; --overwrite replaces it")
    if not kind.recognized(target):
        raise ModelFolderError(f"{target} exists and is not {kind.what}; remove it yourself")
    others = foreign_entries(target, kind.entries) if kind.entries else []
    if others:
        raise ModelFolderError(
            f"{target} is not replaced, since it also holds {listed(others)}, which is not part of "
            f"{kind.what}; move that elsewhere, or name another folder"
        )


def is_safetensors(file: Path) -> bool:
    """Whether a file begins like a safetensors file: with the size of a header, then JSON."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(9)[8:] == b"{"


SAFETENSORS = Kind("a safetensors file", is_safetensors)


def is_model_folder(folder: Path) -> bool:
    """Whether `folder` has the config.json of a model folder."""
    try:
        read_model_config(folder)
    except ModelFolderError:
        return False
    return True


MODEL_FOLDER = Kind(
    "a model folder",
    is_model_folder,
    re.compile(
        r"config\.json|report\.txt|tokenizer|weights|"
        rf"tokenizer/{QFORMER}|tokenizer/({QFORMER}/)?({TOKENIZER_NAMES})|weights/({_WEIGHTS_FILES})"
    ),
)
