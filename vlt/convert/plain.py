"""Writes models without methods as folders that transformers loads with the same results."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flax import traverse_util

from vlt.convert.errors import ConversionError
from vlt.convert.layouts.blip import BLIP_HF
from vlt.convert.layouts.clip import CLIP_HF
from vlt.convert.layouts.huggingface import clip_spec
from vlt.convert.layouts.huggingface_blip import blip_spec
from vlt.convert.layouts.siglip import SIGLIP_HF, siglip_spec
from vlt.convert.reverse import write_published
from vlt.convert.tables.family import Family
from vlt.convert.tables.table import sources_of
from vlt.convert.text_forms import write_into_tokenizer
from vlt.methods import build_methods
from vlt.model_io.folder import ModelConfig
from vlt.models.spec import BlipSpec, ChatSpec, Spec

ELSE = "--format=orbax or safetensors keeps all of it"


def write_plain(
    target: Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    tokenizer: Path,
    card: str,
    overwrite: bool,
) -> None:
    """Writes a CLIP, MetaCLIP 2, SigLIP or BLIP as transformers saves it, with `card` as README.md.

    Raises:
        ConversionError: methods are left, or the model has something that transformers' lacks,
            which is named.
        ModelFolderError, WriteError: as in `vlt.convert.reverse`.
    """
    layout = plain_layout(config)
    leaves = dict(traverse_util.flatten_dict(params, sep="/"))
    left = sources_of(layout.rules, leaves)[1]
    if left and not layout.starts.keys() >= set(left):
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ConversionError(
            f"no model of transformers' that is written has a place for {left[0]}{more}; {ELSE}"
        )
    own = dataclasses.replace(config, source={})
    read_back = _reader(layout, config.spec)

    def check(folder: Path) -> None:
        write_into_tokenizer(folder, config.spec.text.context)
        _check_same(config.spec, read_back(folder))

    write_published(target, layout, own, leaves, tokenizer, overwrite, {"README.md": card}, check)


def plain_layout(config: ModelConfig) -> Family:
    """transformers' layout for a model of this kind.

    Raises ConversionError: there is none, or methods are left.
    """
    spec = config.spec
    if isinstance(spec, ChatSpec):
        raise ConversionError(f"a chat model is not written as transformers'; {ELSE}")
    if config.methods:
        folds = [m.name for m in build_methods(config.methods) if m.mergeable]
        hint = f"--merge folds {', '.join(folds)}; " if folds else ""
        raise ConversionError(
            f"the model has {', '.join(config.methods)}, which transformers' has not: {hint}{ELSE}"
        )
    if isinstance(spec, BlipSpec):
        return BLIP_HF.for_kind(spec.kind)
    return SIGLIP_HF if spec.visual.pool == "attention" else CLIP_HF


def _reader(layout: Family, spec: Spec) -> Callable[[Path], Spec]:
    """The function that reads the spec of a folder in this layout."""
    if isinstance(spec, BlipSpec):
        return lambda folder: blip_spec(folder, spec.kind, {})[0]
    return siglip_spec if layout is SIGLIP_HF else clip_spec


def _check_same(ours: Spec, theirs: Spec) -> None:
    """Raises ConversionError, naming the field, where transformers' model would differ."""
    for name, value in _fields(ours).items():
        other = _fields(theirs).get(name)
        if name not in _ELSEWHERE and other != value:
            raise ConversionError(
                f"{name}={value}, and transformers' model of this kind has {other}; {ELSE}"
            )


# init_std serves fresh weights alone, pad_id the tokenizer where no padding is masked, and
# `blip_json` checks encode_id.
_ELSEWHERE = ("visual.init_std", "text.init_std", "text.pad_id", "text.encode_id")


def _fields(spec: Spec) -> dict[str, Any]:
    nested = traverse_util.flatten_dict(spec.to_dict(), sep=".")
    return {name: value for name, value in nested.items() if not isinstance(value, dict)}
