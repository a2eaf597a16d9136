"""Published layouts with random weights, to try out a conversion and all that follows it."""

import tempfile
from pathlib import Path

import numpy as np
from flax import traverse_util

from vlt.convert.chat.words import read_words, write_words
from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors
from vlt.convert.layouts.chat import LLAMA
from vlt.convert.layouts.families import get_family
from vlt.convert.preprocessing import default_preprocessing
from vlt.convert.reverse import is_folder, reverse, write_published
from vlt.convert.tokenizer import write_tokenizer
from vlt.data import moving_shapes
from vlt.data.manifests.resources import resolve
from vlt.model_io.folder import ModelConfig, model_shapes, write_model_folder
from vlt.models.sizes import SIZES
from vlt.models.spec import ChatSpec, EncoderSpec, Spec
from vlt.pytrees.fields import near


def random_checkpoint(
    size: str | Spec,
    target: str | Path,
    family: str,
    tokenizer: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> str:
    """Writes a checkpoint in a published layout, with random weights; returns a report.

    Args:
        size: a name of `vlt.models.sizes.SIZES`, such as "tiny_clip" or "clip_b16", or a spec.
        target: a .safetensors file, or a .npz where the layout is published as one; a new folder
            for layouts that transformers loads as a folder, and for llama, which is the language
            model alone of a chat model.
        family: its layout, by a name that `vlt convert --family` takes.
        tokenizer: for a folder, as `convert` takes it; tiny sizes default to that of moving shapes,
            tiny_chat to its own.
        seed: seeds the weights.
        overwrite: whether to replace an earlier checkpoint at the target.

    Raises:
        ConversionError: an unknown size or layout, a layout that is not for this model, or no
            tokenizer of its size.
        ModelFolderError: the target exists and may not be replaced.
        WriteError: the target is a link, or cannot be written.
    """
    if isinstance(size, str) and size not in SIZES:
        raise ConversionError(f"unknown size {size!r}{near(size, SIZES)}")
    spec = SIZES[size] if isinstance(size, str) else size
    if family == LLAMA.name and isinstance(spec, ChatSpec):
        return _language_model(spec, Path(target), tokenizer, seed, overwrite)
    if isinstance(spec, ChatSpec) and is_folder(Path(target)):
        raise ConversionError(
            "a chat model has no layout that holds all of it, with its tokenizer; family='llama' "
            "writes its language model"
        )
    layout = get_family(family).for_spec(spec)
    pixels = default_preprocessing(spec) | layout.pixels
    config = ModelConfig(layout.model, spec, {}, pixels)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "tokenizer"
        if is_folder(Path(target)) and not isinstance(spec, EncoderSpec):
            _write_tokenizer(tokenizer, files, spec)
        fixed = {path: np.array(value, np.float32) for path, value in layout.constants.items()}
        leaves = _random_leaves(spec, seed) | fixed
        return write_published(Path(target), layout, config, leaves, files, overwrite)


def _language_model(
    spec: ChatSpec, target: Path, tokenizer: str | None, seed: int, overwrite: bool
) -> str:
    config = ModelConfig("chat", spec, {}, default_preprocessing(spec))
    leaves = traverse_util.unflatten_dict(_random_leaves(spec, seed), sep="/")
    with tempfile.TemporaryDirectory() as folder:
        model, files = Path(folder) / "model", Path(folder) / "tokenizer"
        _write_tokenizer(tokenizer, files, spec)
        write_model_folder(model, config, leaves, files)
        return reverse(model, target, overwrite=overwrite, part="llm")


def _random_leaves(spec: Spec, seed: int) -> Tensors:
    """Leaves near the values training starts from (scales 1, the rest 0), but no two alike."""
    rng = np.random.default_rng(seed)
    shapes = traverse_util.flatten_dict(model_shapes(spec, {}), sep="/")
    return {
        path: np.float32(rng.normal(path.endswith("/scale"), 0.02, leaf.shape))
        for path, leaf in shapes.items()
    }


def _write_tokenizer(tokenizer: str | None, files: Path, spec: Spec) -> None:
    is_chat = isinstance(spec, ChatSpec)
    own = SIZES["tiny_chat"].text.vocab if is_chat else len(moving_shapes.VOCABULARY)
    if tokenizer is None and spec.text.vocab != own:
        raise ConversionError(
            f"the text tower has {spec.text.vocab} tokens; tokenizer=: a folder, a file or a name "
            "on the hub is needed"
        )
    if isinstance(spec, ChatSpec):
        words = Path(tokenizer) if tokenizer else resolve("tiny_chat") / "tokenizer"
        write_words(read_words(words), files, spec)
    elif tokenizer is not None:
        write_tokenizer(tokenizer, files, spec.text)
    else:
        moving_shapes.write_tokenizer(files)
