"""The layouts of VoP and PLEVU: read, written back bit for bit, and refused if they do not fit."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch

from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.model_io.folder import (
    ModelConfig,
    ModelFolderError,
    model_shapes,
    read_model_config,
    read_model_folder,
    write_model_folder,
)
from vlt.model_io.loading import load_folder
from vlt.model_io.view import View

Tensors = dict[str, np.ndarray]
FILES = {"vop": "vop/basic", "plevu": "efficient_prompt/prompts_temporal"}
SETTINGS = {"vop": (), "plevu": ("plevu.prefix=3", "plevu.postfix=2", "plevu.heads=4")}
OPTIONS = {
    "vop": {"tokens": 3, "prefix": 2, "suffix": 2},
    "plevu": {"layers": 2, "prefix": 3, "postfix": 2, "heads": 4},
}


@pytest.fixture(scope="module")
def tensors(shared: Path) -> dict[str, Tensors]:
    """Published tensors by family."""
    files = {family: shared / f"golden/{name}.safetensors" for family, name in FILES.items()}
    return {family: safetensors.numpy.load_file(file) for family, file in files.items()}


def _convert(found: Tensors, work: Path, tokenizer: str, *settings: str, name="model") -> str:
    safetensors.numpy.save_file(found, work / "best.safetensors")
    options = parse_settings(settings)
    return convert(work / "best.safetensors", work / name, None, options, tokenizer)


def _same_bits(a: Tensors, b: Tensors) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("family", [pytest.param("plevu", marks=pytest.mark.slow), "vop"])
def test_there_and_back(family, tensors, tmp_path, tokenizer):
    """Also without a record of the names that a model came from."""
    report = _convert(tensors[family], tmp_path, tokenizer, *SETTINGS[family])
    config, params = read_model_folder(tmp_path / "model")
    assert config.methods == {family: OPTIONS[family]}
    assert config.source["layout"] == family
    if family == "vop":
        assert "vop.prefix: 2, vop.suffix: 2, half of 4 (assumed)" in report
        assert "kept once: image_encoder.conv1.weight" in report
        assert (config.frame_norm, config.view) == (True, View("segment_centre", 12))
    else:
        assert "plevu.prefix: 3 (set)" in report
        assert (config.frame_norm, config.frames) == (False, 4)
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    _same_bits(tensors[family], safetensors.numpy.load_file(tmp_path / "back.safetensors"))
    bare = ModelConfig(
        "clip", config.spec, config.methods, config.preprocessing, config.frames, config.frame_norm
    )
    write_model_folder(tmp_path / "bare", bare, params, Path(tokenizer))
    reverse(tmp_path / "bare", tmp_path / "again.safetensors", family)
    _same_bits(tensors[family], safetensors.numpy.load_file(tmp_path / "again.safetensors"))


@pytest.mark.slow
def test_torchs_file_of_a_wrapped_state(tensors, tmp_path, tokenizer):
    for family, found in tensors.items():
        state = {f"module.{name}": torch.from_numpy(x.copy()) for name, x in found.items()}
        path = tmp_path / f"{family}.pth"
        torch.save({"state_dict": state, "epoch": 1}, path)
        options = parse_settings(SETTINGS[family])
        convert(path, tmp_path / family, None, options, tokenizer)
        assert read_model_config(tmp_path / family).methods == {family: OPTIONS[family]}


@pytest.mark.slow
def test_published_counts_are_what_tensors_cannot_tell(tensors, tmp_path, tokenizer):
    report = _convert(tensors["plevu"], tmp_path, tokenizer)
    options = {"layers": 2, "prefix": 16, "postfix": 16, "heads": 8}
    assert read_model_config(tmp_path / "model").methods == {"plevu": options}
    assert "plevu.postfix: 16 (of the published command)" in report


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("family", "change", "settings", "message"),
    [
        ("vop", {"image_encoder.proj": 1.0}, (), "image_encoder.proj is not the same as clip.vis"),
        ("vop", {"text_prompt_learner.text_prompts": None}, (), "missing: text_prompt_learner.t"),
        ("vop", {}, ("plevu.prefix=1",), "--set plevu.prefix: there are no leaves of PLEVU"),
        ("plevu", {}, ("plevu.prefix=70",), "plevu.prefix=70 and plevu.postfix=16 leave -9 of"),
        ("plevu", {"temporalEmbedding.weight": None}, (), "missing: temporalEmbedding.weight"),
        ("plevu", {"embedding.weight": None}, (), "missing: embedding.weight .for text/plevu_pro"),
    ],
)  # fmt: skip
def test_what_does_not_fit(family, change, settings, message, tensors, tmp_path, tokenizer):
    found = dict(tensors[family])
    for name, added in change.items():
        tensor = found.pop(name)
        found |= {} if added is None else {name: tensor + np.float32(added)}
    with pytest.raises(ConversionError, match=message):
        _convert(found, tmp_path, tokenizer, *settings)


@pytest.mark.slow
def test_a_variant_has_no_published_layout(tensors, tmp_path, tokenizer):
    _convert(tensors["vop"], tmp_path, tokenizer)
    config, _ = read_model_folder(tmp_path / "model")
    methods = {"vop": OPTIONS["vop"] | {"variant": "P", "specific": 1}}
    other = ModelConfig("clip", config.spec, methods, config.preprocessing, 4, True)
    shapes = model_shapes(config.spec, methods, 4)
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    write_model_folder(tmp_path / "other", other, params, Path(tokenizer))
    with pytest.raises(ConversionError, match="vop.variant is P, layout vop fixes it at basic$"):
        reverse(tmp_path / "other", tmp_path / "back.safetensors", "vop")


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (
            "vop",
            {"variant": "C", "specific": 1},
            "was trained with vop.variant='basic', the config has 'C'; take",
        ),
        ("vop", {"prefix": 1, "suffix": 3}, "trained with vop.prefix=2, the config has 1"),
        ("plevu", {"postfix": 4}, "trained with plevu.postfix=2, the config has 4"),
    ],
)
def test_a_checkpoint_of_another_form_of_the_method(
    family, options, message, tensors, tmp_path, tokenizer
):
    """No shape of its leaves tells the difference."""
    _convert(tensors[family], tmp_path, tokenizer, *SETTINGS[family])
    with pytest.raises(ModelFolderError, match=message):
        load_folder(str(tmp_path / "model"), methods={family: options})
