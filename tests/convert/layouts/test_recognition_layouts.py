"""The layouts of Vita-CLIP, OST and MoTE: read, written back bit for bit, and what does not fit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from golden_recognition import base_clip

from vlt.convert import ConversionError, UnsafePickleError, convert, parse_settings, reverse
from vlt.model_io.folder import ModelConfig, read_model_folder, write_model_folder
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec

Tensors = dict[str, np.ndarray]

HEADS = ("visual.heads=2", "text.heads=2")
BUFFERS = ("prompt_learner.token_prefix", "prompt_learner.token_suffix")


@pytest.fixture(scope="module")
def vita(shared: Path) -> Tensors:
    return safetensors.numpy.load_file(shared / "golden/vitaclip/a_frames4.safetensors")


def saved(file: Path, wrapped: dict) -> Path:
    """Writes a torch file with these entries."""
    torch.save(wrapped, file)
    return file


def tensors(arrays: Tensors, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: torch.from_numpy(x.copy()) for name, x in arrays.items()}


def same_bits(a: Tensors, b: Tensors) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name


def test_vita_clip_there_and_back(vita, tmp_path, tokenizer):
    """From what its code saves, with a wrapper and the prefix of parallel training."""
    file = saved(tmp_path / "a.pth", {"epoch": 3, "model": tensors(vita, "module.")})
    settings = parse_settings([*HEADS, "vita_clip.position=middle"])
    report = convert(file, tmp_path / "model", None, settings, tokenizer)
    assert "vita_clip.position: middle (set)" in report
    assert "dropped (holds no weights): module.prompt_learner.token_prefix" in report
    config, params = read_model_folder(tmp_path / "model")
    assert config.methods["vita_clip"]["position"] == "middle"
    prompts = params["visual"]["vita_clip"]
    np.testing.assert_array_equal(
        prompts["local_prompts_2"], vita["visual.blocks.2.local_prompts"][0]
    )
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    kept = {f"module.{name}": x for name, x in vita.items() if name not in BUFFERS}
    same_bits(kept, back)


@pytest.mark.slow
def test_a_vita_clip_trained_here_on_a_clip_is_written_with_biases_of_patches(
    vita, tmp_path, tokenizer
):
    none = {"visual.patch_embed.proj.bias": np.zeros(64, np.float16)}
    safetensors.numpy.save_file(vita | none, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "model", None, parse_settings(HEADS), tokenizer)
    config, params = read_model_folder(tmp_path / "model")
    visual = dataclasses.replace(config.spec.visual, patch_bias=False)
    spec = dataclasses.replace(config.spec, visual=visual)
    del params["visual"]["patch_embedding"]["bias"]
    bare = ModelConfig("clip", spec, config.methods, config.preprocessing, 4)
    write_model_folder(tmp_path / "bare", bare, params, Path(tokenizer))
    reverse(tmp_path / "bare", tmp_path / "back.safetensors", "vita_clip")
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    kept = {n: np.float32(x) for n, x in (vita | none).items() if n not in BUFFERS}
    same_bits(kept, back)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual.blocks.1.cls_proj.bias": None}, r"missing: visual.blocks.1.cls_proj.bias \(for"),
        ({"visual.blocks.1.local_prompts": None}, r"missing: visual.blocks.1.local_prompts \(for"),
        ({"visual.time_embed": (6, 64)}, r"wrong_shape: visual.blocks.0.local_prompts \(visual/"),
        ({"prompt_learner.ctx": (4,)}, r"wrong_shape: prompt_learner.ctx \(text/vita_clip/context"),
        ({"visual.global_prompts": (2, 3, 64)}, "wrong_shape: visual.global_prompts"),
        ({"visual.blocks.0.VPT_shallow": (3, 64)}, "unexpected: visual.blocks.0.VPT_shallow"),
    ],
)
def test_vita_clips_that_do_not_fit(vita, tmp_path, tokenizer, changes, message):
    wrong = dict(vita)
    for name, shape in changes.items():
        wrong.pop(name, None)
        if shape is not None:
            wrong[name] = np.ones(shape, np.float16)
    safetensors.numpy.save_file(wrong, tmp_path / "a.safetensors")
    with pytest.raises(ConversionError, match=message):
        convert(
            tmp_path / "a.safetensors", tmp_path / "model", None, parse_settings(HEADS), tokenizer
        )


@pytest.mark.slow
def test_ost_there_and_back(shared, tmp_path, tokenizer):
    ost = safetensors.numpy.load_file(shared / "golden/ost/a_frames6.safetensors")
    file = saved(tmp_path / "a.pth", {"epoch": 9, "model": tensors(ost), "optimizer": {}})
    convert(file, tmp_path / "model", None, {}, tokenizer)
    config, _ = read_model_folder(tmp_path / "model")
    assert (config.source["layout"], config.methods) == ("ost", {})
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    same_bits(ost, safetensors.numpy.load_file(tmp_path / "back.safetensors"))


@pytest.fixture(scope="module")
def mote(shared: Path) -> Tensors:
    return safetensors.numpy.load_file(shared / "golden/mote/a_frames5.safetensors")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """The `--set` argument that names the CLIP with the text tower."""
    spec = DualEncoderSpec(
        VisionSpec(24, 8, 64, 2, 1, 256), TextSpec(16, 64, 64, 1, 1, 256), embed_dim=64
    )
    return f"base={base_clip(spec, tmp_path_factory.mktemp('base'))}"


def entries(mote: Tensors) -> dict[str, dict[str, torch.Tensor]]:
    """The two state dicts of a file, as training saves them."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors(mote).items():
        entry, _, rest = name.partition(".")
        found.setdefault(entry, {})[rest] = tensor
    return found


def test_mote_there_and_back(mote, base, tmp_path):
    """From two entries beside an optimizer's; the text tower comes from the base."""
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
    file = saved(
        tmp_path / "a.pt", {"epoch": 3, **entries(mote), "optimizer_state_dict": optimizer}
    )
    report = convert(file, tmp_path / "model", None, parse_settings([base]))
    assert "entries model_state_dict and fusion_model_state_dict" in report
    assert "ignored (not part of the state dict): optimizer_state_dict" in report
    config, params = read_model_folder(tmp_path / "model")
    assert config.methods == {"mote": {"layers": 2, "experts": 4, "max_frames": 16, "classes": 7}}
    known = mote["fusion_model_state_dict.spe_cls_feature"]
    np.testing.assert_array_equal(params["mote"]["classes"], known)
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    same_bits(mote, back)


HEAD = "fusion_model_state_dict.transformer.resblocks"


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("changes", "message"),
    [  # first, a block with fewer experts than another
        ({f"{HEAD}.1.mlp.fc_up.3.weight": None}, r"missing: .*\.1\.mlp\.fc_up\.3\.weight \(for"),
        ({f"{HEAD}.0.mlp.mote_fusion_weight": (3,)}, r"wrong_shape: .*\.0\.mlp\.mote_fusion_weig"),
        ({"model_state_dict.visual.proj": None}, r"missing: model_state_dict\.visual\.proj \(for"),
        (
            {"fusion_model_state_dict.frame_position_embeddings.weight": None},
            r"missing: fusion_model_state_dict\.frame_position_embeddings\.weight",
        ),
        ({f"{HEAD}.0.mlp.router.weight": (4, 64)}, r"unexpected: .*mlp\.router\.weight"),
    ],
)
def test_motes_that_do_not_fit(mote, base, tmp_path, changes, message):
    wrong = dict(mote)
    for name, shape in changes.items():
        wrong.pop(name, None)
        if shape is not None:
            wrong[name] = np.ones(shape, np.float16)
    safetensors.numpy.save_file(wrong, tmp_path / "a.safetensors")
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "a.safetensors", tmp_path / "model", None, parse_settings([base]))


def test_a_mote_without_its_clip(mote, tmp_path, tokenizer):
    safetensors.numpy.save_file(mote, tmp_path / "a.safetensors")
    with pytest.raises(ConversionError, match="holds no text tower; --set base=FOLDER names"):
        convert(tmp_path / "a.safetensors", tmp_path / "model", None, {}, tokenizer)


class Code:
    """Code that a hostile file asks to run."""

    def __reduce__(self):
        return (print, ("run",))


def test_code_in_the_second_entry_is_not_run(mote, tmp_path, capsys):
    hostile = entries(mote)
    hostile["fusion_model_state_dict"]["spe_cls_feature"] = Code()
    file = saved(tmp_path / "a.pt", hostile)
    with pytest.raises(UnsafePickleError):
        convert(file, tmp_path / "model")
    assert "run" not in capsys.readouterr().out
