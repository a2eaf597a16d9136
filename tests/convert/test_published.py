"""Every published layout: read, written back bit for bit, and refused where it does not fit."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.convert.chat.parts import read_part
from vlt.convert.files.reading import read_checkpoint
from vlt.convert.preprocessing import FILES, FILTERS, preprocessing, preprocessor_json
from vlt.model_io.folder import (
    ModelFolderError,
    read_model_config,
    read_model_folder,
    write_model_folder,
)
from vlt.model_io.view import View
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec

Tensors = dict[str, np.ndarray]


def _same_bits(a: Tensors, b: Tensors) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert np.ascontiguousarray(a[name]).tobytes() == b[name].tobytes(), name


def _round_trip(source: Path, work: Path, tokenizer: str, *settings: str) -> tuple[str, Tensors]:
    """The report and the tensors written back, which are asserted to be the original ones."""
    options = parse_settings(settings)
    report = convert(source, work / "model", settings=options, tokenizer=tokenizer)
    reverse(work / "model", work / "back.safetensors")
    original, back = (read_checkpoint(path).tensors for path in (source, work / "back.safetensors"))
    dropped = read_model_config(work / "model").source["dropped"]
    _same_bits({name: original[name] for name in original if name not in dropped}, back)
    return report, back


def _save(path: Path, tensors: Tensors) -> Path:
    arrays = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()}
    safetensors.numpy.save_file(arrays, path)
    return path


@pytest.fixture
def golden(shared: Path) -> Tensors:
    return safetensors.numpy.load_file(shared / "golden/btadapter/clip_btadapter_small.safetensors")


HEADS = ("visual.heads=4", "text.heads=4")


def test_huggingface_safetensors(clip_folder, tmp_path, tokenizer):
    report, _ = _round_trip(clip_folder, tmp_path, tokenizer)
    config = read_model_config(tmp_path / "model")
    assert (config.frame_norm, config.view) == (True, View("segment_middle", 12))
    spec = config.spec
    assert (spec.visual.layers, spec.visual.heads, spec.visual.mlp_width) == (4, 2, 160)
    assert (spec.visual.image_size, spec.visual.patch_size, spec.embed_dim) == (48, 16, 32)
    assert (spec.visual.activation, spec.visual.norm_eps) == ("gelu", 1e-4)
    assert (spec.text.context, spec.text.vocab, spec.text.heads) == (10, 60, 4)
    assert (spec.text.activation, spec.text.norm_eps) == ("quick_gelu", 1e-5)
    assert (
        "\ntext: context 10, vocabulary 60, width 48, 3 layers, 4 heads, MLP 96, quick_gelu, "
        "epsilon 1e-05\nembedding: 32\n" in report
    )
    rows = [line.split() for line in report.splitlines() if "self_attn.q_proj.weight" in line]
    assert rows[1] == [
        "vision_model.encoder.layers.{0-3}.self_attn.q_proj.weight",
        *("[64,", "64]", "float32", "visual/blocks_{0-3}/attention/query/kernel", "transpose"),
    ]
    full = (tmp_path / "model/report.txt").read_text()
    assert "vision_model.encoder.layers.3.mlp.fc1.weight" in full


def test_a_huggingface_file_alone_tells_less(clip_folder, tmp_path, tokenizer):
    path = clip_folder / "model.safetensors"
    with pytest.raises(ConversionError, match="visual.heads|can't tell the activation"):
        convert(path, tmp_path / "model", tokenizer=tokenizer)
    settings = ("visual.heads=2", "text.heads=4", "visual.norm_eps=1e-4")
    activations = ("visual.activation=gelu", "text.activation=quick_gelu")
    _round_trip(path, tmp_path, tokenizer, *settings, *activations)
    convert(clip_folder, tmp_path / "whole", tokenizer=tokenizer)
    specs = [read_model_config(tmp_path / name).spec for name in ("model", "whole")]
    assert specs[0] == specs[1]
    with pytest.raises(ConversionError, match=r"--set visual.heads: .*config\.json says it"):
        convert(clip_folder, tmp_path / "x", settings={"visual.heads": 2}, tokenizer=tokenizer)


def test_huggingface_folder_comes_back_as_one(clip, clip_folder, tmp_path, tokenizer):
    from transformers import CLIPModel

    convert(clip_folder, tmp_path / "model", tokenizer=tokenizer)
    reverse(tmp_path / "model", tmp_path / "hf")
    model = CLIPModel.from_pretrained(tmp_path / "hf")
    assert model.config.vision_config.hidden_act == "gelu"
    assert (tmp_path / "hf/vocab.json").exists()
    for name, tensor in clip.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    # The result can be converted like the first source.
    _round_trip(tmp_path / "hf", tmp_path / "again", tokenizer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_huggingface_bin_of_half_precision(clip, clip_folder, tmp_path, tokenizer, dtype):
    state = {name: tensor.to(dtype) for name, tensor in clip.state_dict().items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(10)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text((clip_folder / "config.json").read_text())
    torch.save(state, tmp_path / "hf/pytorch_model.bin")
    report, back = _round_trip(tmp_path / "hf", tmp_path, tokenizer)
    assert "dropped (holds no weights): vision_model.embeddings.position_ids" in report
    assert {str(x.dtype) for x in back.values()} == {str(dtype).removeprefix("torch.")}
    _, params = read_model_folder(tmp_path / "model")
    assert params["visual"]["class_embedding"].dtype == np.float32


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(clip, clip_folder, tmp_path, tokenizer, kind):
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text((clip_folder / "config.json").read_text())
    state = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    names = sorted(state)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    placement = {}
    for index, part in enumerate((names[::2], names[1::2])):
        shard = f"{stem}-{index + 1:05d}-of-00002.{kind}"
        placement |= dict.fromkeys(part, shard)
        if kind == "bin":
            torch.save({name: state[name] for name in part}, folder / shard)
        else:
            _save(folder / shard, {name: state[name].numpy() for name in part})
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": placement}))
    _round_trip(folder, tmp_path, tokenizer)
    index.write_text(json.dumps({"weight_map": placement | {"extra": shard}}))
    with pytest.raises(ConversionError, match="shards lack extra"):
        read_checkpoint(folder)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_openai_torchscript(openai, tmp_path, tokenizer):
    example = torch.zeros(1, 3, 24, 24).half(), torch.zeros(1, 12, dtype=torch.long)
    torch.jit.trace(openai, example, check_trace=False).save(tmp_path / "clip.pt")
    report, back = _round_trip(tmp_path / "clip.pt", tmp_path, tokenizer)
    assert {str(x.dtype) for x in back.values()} == {"float16"}
    spec = read_model_config(tmp_path / "model").spec
    assert (spec.visual.image_size, spec.visual.patch_size, spec.visual.heads) == (24, 8, 2)
    assert (spec.text.context, spec.text.vocab, spec.text.layers) == (12, 100, 3)
    assert spec.visual.activation == spec.text.activation == "quick_gelu"
    assert "visual.heads: 2 (width/64)" in report
    for name in ("input_resolution", "context_length", "vocab_size"):
        assert f"dropped (holds no weights): {name}" in report
    line = next(line for line in report.splitlines() if "visual" in line and "in_proj_w" in line)
    assert "visual/blocks_{0-1}/attention/{query,key,value}/kernel" in line


@pytest.mark.quick(2)
@pytest.mark.parametrize("prefix", ["", "clip.", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_open_clip_names(openai, tmp_path, tokenizer, prefix, zipped):
    buffers = ("input_resolution", "context_length", "vocab_size")
    state = {prefix + k: v for k, v in openai.state_dict().items() if k not in buffers}
    path = tmp_path / "open_clip.pt"
    torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConversionError, match="--set activation=quick_gelu"):
        convert(path, tmp_path / "model", tokenizer=tokenizer)
    report, back = _round_trip(path, tmp_path, tokenizer, "activation=gelu")
    assert all(name.startswith(prefix) for name in back)
    assert "ignored (not part of the state dict): epoch" in report
    spec = read_model_config(tmp_path / "model").spec
    assert spec.visual.activation == spec.text.activation == "gelu"


def test_openai_orientation_and_order_of_q_k_v(openai, tmp_path, tokenizer):
    torch.save(openai.state_dict(), tmp_path / "clip.pt")
    convert(tmp_path / "clip.pt", tmp_path / "model", tokenizer=tokenizer)
    _, params = read_model_folder(tmp_path / "model")
    state = {name: tensor.float().numpy() for name, tensor in openai.state_dict().items()}
    attention = params["visual"]["blocks_1"]["attention"]
    fused = state["visual.transformer.resblocks.1.attn.in_proj_weight"]
    for index, name in enumerate(("query", "key", "value")):
        rows = fused[128 * index : 128 * (index + 1)]
        np.testing.assert_array_equal(attention[name]["kernel"], rows.T)
    np.testing.assert_array_equal(params["visual"]["projection"]["kernel"], state["visual.proj"])
    kernel = params["visual"]["patch_embedding"]["kernel"]
    np.testing.assert_array_equal(kernel[1, 2, 0], state["visual.conv1.weight"][:, 0, 1, 2])


def _plain(tensors: Tensors) -> Tensors:
    return {name: x for name, x in tensors.items() if "balance" not in name}


def _without_alignment(tensors: Tensors) -> Tensors:
    return {name: x for name, x in tensors.items() if "extra_proj" not in name}


def _legacy(tensors: Tensors) -> Tensors:
    return {
        name.replace("backbone.", "model.vision_tower.", name.startswith("backbone.")).replace(
            "btadapter", "timesFPN"
        ): x
        for name, x in tensors.items()
    }


def _flat(tensors: Tensors) -> Tensors:
    return {re.sub("^backbone[.]", "", name): x for name, x in tensors.items()}


def _towers(tensors: Tensors) -> Tensors:
    return {n: x for n, x in _plain(_without_alignment(tensors)).items() if "btadapter" not in n}


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("change", "gates", "alignment"),
    [
        (dict, "vector", "normalized"),
        (_plain, "none", "normalized"),
        (_without_alignment, "vector", "none"),
        (_legacy, "vector", "normalized"),
        (_flat, "vector", "normalized"),
        (_towers, None, None),
    ],
)
def test_btadapter_layouts(
    golden: Tensors,
    tmp_path: Path,
    tokenizer: str,
    change: Callable[[Tensors], Tensors],
    gates: str | None,
    alignment: str | None,
):
    tensors = change({n: x for n, x in golden.items() if "/" not in n and _is_weight(n)})
    path = _save(tmp_path / "weights.safetensors", tensors)
    report, _ = _round_trip(path, tmp_path, tokenizer, *HEADS)
    config = read_model_config(tmp_path / "model")
    if gates is None:
        assert config.methods == {}
    else:
        options = {"depth": 4, "gates": gates, "alignment": alignment, "max_frames": 64}
        assert config.methods == {"btadapter": options}
    assert (config.frame_norm, config.view) == (False, View("segment_middle", 12))
    assert "logit_scale: 4.605170" in report
    assert "visual.heads: 4 (set)" in report


def _is_weight(name: str) -> bool:
    return name.startswith(("backbone.", "text_backbone.", "extra_proj."))


@pytest.fixture
def branch_folder(golden: Tensors, tmp_path: Path, tokenizer: str) -> Path:
    tensors = {name: x for name, x in golden.items() if _is_weight(name)}
    path = _save(tmp_path / "pretrained.safetensors", tensors)
    convert(path, tmp_path / "base", settings=parse_settings(HEADS), tokenizer=tokenizer)
    return tmp_path / "base"


def test_fine_tuned_adapter_file_is_completed(golden, branch_folder, tmp_path):
    tuned = {
        name.replace("backbone.", "model.vision_tower."): (x + 1).astype(np.float16)
        for name, x in golden.items()
        if "btadapter" in name and not re.search(r"layers\.3\.", name)
    }
    path = tmp_path / "btadapter_weight.bin"
    torch.save({name: torch.from_numpy(x) for name, x in tuned.items()}, path)
    with pytest.raises(ConversionError, match="adapter alone; --set base=FOLDER"):
        convert(path, tmp_path / "model", tokenizer=str(branch_folder / "tokenizer"))
    settings = {"base": str(branch_folder)}
    with pytest.raises(ConversionError, match=r"--set visual.heads: .*config\.json says it"):
        convert(path, tmp_path / "model", settings=settings | {"visual.heads": 4})
    base = branch_folder / "config.json"
    base.write_text(base.read_text().replace('"frame_norm": false', '"frame_norm": true'))
    convert(path, tmp_path / "model", settings=settings)
    config, params = read_model_folder(tmp_path / "model")
    assert not config.frame_norm  # as in BT-Adapter, whatever it was trained on
    branch = params["visual"]["btadapter"]
    name = "model.vision_tower.btadapter_T_layers.{}.temporal_fc.bias"
    for layer in range(3):
        kept = branch[f"temporal_{layer}"]["projection"]["bias"]
        np.testing.assert_array_equal(kept, tuned[name.format(layer)])
    untouched = golden["backbone.btadapter_T_layers.3.temporal_fc.bias"]
    np.testing.assert_array_equal(branch["temporal_3"]["projection"]["bias"], untouched)
    np.testing.assert_array_equal(branch["layer_gate"], golden["backbone.balance2"])
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    _same_bits(tuned, safetensors.numpy.load_file(tmp_path / "back.safetensors"))


def test_eva_variant(tmp_path, tokenizer):
    tensors = _eva_checkpoint()
    path = _save(tmp_path / "eva.safetensors", tensors)
    report, _ = _round_trip(path, tmp_path, tokenizer)
    config, params = read_model_folder(tmp_path / "model")
    spec = config.spec
    assert (spec.visual.heads, spec.text.heads, spec.visual.mlp_width) == (2, 1, 24)
    assert not (spec.visual.pre_norm or spec.visual.key_bias)
    assert spec.visual.projection_bias and spec.visual.patch_bias
    assert (spec.visual.norm_eps, spec.text.norm_eps) == (1e-6, 1e-5)
    assert spec.visual.activation == spec.text.activation == "gelu"
    assert config.methods["btadapter"]["gates"] == "none"
    assert "visual.heads: 2 (width/88)" in report
    attention = params["visual"]["btadapter"]["temporal_1"]["attention"]
    assert "bias" not in attention["key"]
    np.testing.assert_array_equal(
        attention["value"]["bias"], tensors["backbone.btadapter_T.1.attn.v_bias"]
    )
    towers = {name: x for name, x in tensors.items() if "btadapter" not in name}
    renamed = {
        name.replace("text_backbone.", "text.").replace("backbone.", "visual."): x
        for name, x in towers.items()
    } | {"logit_scale": np.array(4.0, np.float32)}
    (tmp_path / "towers").mkdir()
    path = _save(tmp_path / "towers/eva_clip.safetensors", renamed)
    _round_trip(path, tmp_path / "towers", tokenizer)


def test_a_tower_with_norms_behind_its_layers_is_refused(tmp_path, tokenizer):
    """EVA02-CLIP-E has EVA-CLIP-G's names, and another order of norms."""
    patches = {"visual.patch_embed.proj.weight": np.zeros((1792, 1, 1, 1), np.float32)}
    path = _save(tmp_path / "e.safetensors", patches)
    with pytest.raises(ConversionError, match="EVA02-CLIP-E, whose vision tower normalises after"):
        convert(path, tmp_path / "model", settings={"visual.heads": 16}, tokenizer=tokenizer)
    with pytest.raises(ConversionError, match="EVA02-CLIP-E"):
        read_part("vision", path)


def _eva_checkpoint(width: int = 176, text: int = 64) -> Tensors:
    rng = np.random.default_rng(0)

    def block(prefix: str) -> dict[str, tuple[int, ...]]:
        shapes = {f"{prefix}.{norm}.{leaf}": (width,) for norm in ("norm1", "norm2") for leaf in WB}
        shapes |= attention(prefix)
        shapes |= {f"{prefix}.mlp.fc1.weight": (24, width), f"{prefix}.mlp.fc1.bias": (24,)}
        return shapes | {
            f"{prefix}.mlp.fc2.weight": (width, 24),
            f"{prefix}.mlp.fc2.bias": (width,),
        }

    def attention(prefix: str) -> dict[str, tuple[int, ...]]:
        return {
            f"{prefix}.attn.qkv.weight": (3 * width, width),
            f"{prefix}.attn.q_bias": (width,),
            f"{prefix}.attn.v_bias": (width,),
            f"{prefix}.attn.proj.weight": (width, width),
            f"{prefix}.attn.proj.bias": (width,),
        }

    WB = ("weight", "bias")
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.cls_token": (1, 1, width),
        "backbone.pos_embed": (1, 5, width),
        "backbone.patch_embed.proj.weight": (width, 3, 4, 4),
        "backbone.patch_embed.proj.bias": (width,),
        "backbone.norm.weight": (width,),
        "backbone.norm.bias": (width,),
        "backbone.head.weight": (32, width),
        "backbone.head.bias": (32,),
        "backbone.btadapter_cls": (1, 1, width),
        "backbone.btadapter_position.weight": (64, width),
        "text_backbone.token_embedding.weight": (60, text),
        "text_backbone.positional_embedding": (10, text),
        "text_backbone.text_projection": (text, 32),
        "text_backbone.ln_final.weight": (text,),
        "text_backbone.ln_final.bias": (text,),
    }
    for layer in range(3):
        shapes |= block(f"backbone.blocks.{layer}")
    for layer in range(2):
        temporal = f"backbone.btadapter_T.{layer}"
        shapes |= block(f"backbone.btadapter_S.{layer}") | attention(temporal)
        shapes |= {f"{temporal}.norm1.{leaf}": (width,) for leaf in WB}
        shapes |= {f"{temporal}.temporal_fc.weight": (width, width)}
        shapes |= {f"{temporal}.temporal_fc.bias": (width,)}
        text_block = f"text_backbone.transformer.resblocks.{layer}"
        shapes |= {
            f"{text_block}.{norm}.{leaf}": (text,) for norm in ("ln_1", "ln_2") for leaf in WB
        }
        shapes |= {
            f"{text_block}.attn.in_proj_weight": (3 * text, text),
            f"{text_block}.attn.in_proj_bias": (3 * text,),
            f"{text_block}.attn.out_proj.weight": (text, text),
            f"{text_block}.attn.out_proj.bias": (text,),
            f"{text_block}.mlp.c_fc.weight": (4 * text, text),
            f"{text_block}.mlp.c_fc.bias": (4 * text,),
            f"{text_block}.mlp.c_proj.weight": (text, 4 * text),
            f"{text_block}.mlp.c_proj.bias": (text,),
        }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_all_misfits_are_listed_at_once(openai, tmp_path, tokenizer):
    state = {name: tensor.numpy() for name, tensor in openai.state_dict().items()}
    blocks = "visual.transformer.resblocks"
    for name in ("visual.ln_pre.bias", "text_projection", f"{blocks}.0.mlp.c_fc.weight"):
        del state[name]
    state["visual.conv1.weight"] = state["visual.conv1.weight"][0]
    state["ln_final.weight"] = state["ln_final.weight"][:-1]
    state[f"{blocks}.1.attn.in_proj_bias"] = state[f"{blocks}.1.attn.in_proj_bias"][:-1]
    state |= {"visual.extra": np.zeros(3, np.float32), "other.weight": np.zeros((), np.float32)}
    path = _save(tmp_path / "clip.safetensors", state)
    with pytest.raises(ConversionError) as error:
        convert(path, tmp_path / "model", tokenizer=tokenizer)
    found = sorted(re.findall(r"^  (\w+): ([\w.]+) ", str(error.value), re.MULTILINE))
    assert found == sorted(
        [
            ("missing", "visual.ln_pre.bias"),
            ("missing", "text_projection"),
            ("missing", f"{blocks}.0.mlp.c_fc.weight"),
            ("unexpected", "visual.extra"),
            ("unexpected", "other.weight"),
            ("wrong_shape", "visual.conv1.weight"),
            ("wrong_shape", "ln_final.weight"),
            ("wrong_shape", f"{blocks}.1.attn.in_proj_bias"),
        ]
    )
    assert not (tmp_path / "model").exists()


def test_a_config_that_disagrees_with_the_tensors(clip_folder, tmp_path, tokenizer):
    folder = tmp_path / "hf"
    folder.mkdir()
    config = json.loads((clip_folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").symlink_to(clip_folder / "model.safetensors")
    with pytest.raises(ConversionError, match=r"missing: vision_model\.encoder\.layers\.4\."):
        convert(folder, tmp_path / "model", tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (None, "model_type", "siglip", "model_type is 'siglip'"),
        (None, "projection_dim", None, "projection_dim"),
        (None, "vision_config", [1], "config.json: "),
        ("text_config", "eos_token_id", 7, "pooled at the highest id, 59"),
        ("text_config", "eos_token_id", [7], "pooled at the highest id, 59"),
        (
            "text_config",
            "hidden_act",
            "relu",
            "hidden_act must be quick_gelu or gelu or gelu_pytorch_tanh, got 'relu'",
        ),
        ("text_config", "hidden_act", ["gelu"], "hidden_act"),
        ("text_config", "vocab_size", 10**30, "vocab_size must be .*, got 1000"),
        (
            "text_config",
            "num_attention_heads",
            7,
            r"48\) is not a multiple of the number of attention heads \(7",
        ),
        ("text_config", "layer_norm_eps", "small", "layer_norm_eps"),
        (
            "text_config",
            "layer_norm_eps",
            float("nan"),
            "text_config.layer_norm_eps must be >= 0 and < 1, got nan",
        ),
        ("vision_config", "hidden_size", "64", "hidden_size"),
        (
            "vision_config",
            "hidden_size",
            -64,
            "vision_config.hidden_size must be a whole number .*, got -64",
        ),
        ("vision_config", "hidden_size", True, "hidden_size"),
        ("vision_config", "patch_size", 0, "patch_size must be a whole number .*, got 0"),
        ("vision_config", "patch_size", 96, "image_size 48 is less than patch_size 96"),
        (
            "vision_config",
            "num_hidden_layers",
            10**6,
            "1000000 visual layers, the tensors are for 4",
        ),
        ("vision_config", "image_size", 10**6, "3906250000 patches, the tensors are for 9"),
    ],
)
def test_a_config_of_another_model(clip_folder, tmp_path, tokenizer, section, key, value, message):
    folder = tmp_path / "hf"
    folder.mkdir()
    config = json.loads((clip_folder / "config.json").read_text())
    (config[section] if section else config)[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").symlink_to(clip_folder / "model.safetensors")
    with pytest.raises(ConversionError, match=message):
        convert(folder, tmp_path / "model", tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("name", "layout"), [("preprocessor_config.json", "old"), ("processor_config.json", "new")]
)
def test_preprocessing_is_taken_from_the_source(clip_folder, tmp_path, tokenizer, name, layout):
    folder = tmp_path / "hf"
    folder.mkdir()
    for file in clip_folder.iterdir():
        (folder / file.name).symlink_to(file)
    fields = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5], "resample": 2}
    if layout == "old":
        content = fields | {"size": 48, "crop_size": 48}
    else:
        sides = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
        content = {"image_processor": fields | sides}
    (folder / name).write_text(json.dumps(content))
    report = convert(folder, tmp_path / "model", tokenizer=tokenizer)
    assert f"preprocessing: {name}" in report
    assert read_model_config(tmp_path / "model").preprocessing == {
        "image_size": 48,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.5, 0.5],
        "resize": "bilinear",
        "crop": "center",
    }


@pytest.mark.parametrize("size", ["clip_b16", "metaclip2_b16", "siglip2_b16", "videoprism_b"])
@pytest.mark.parametrize("code", [*FILTERS, None, 4, True])
def test_a_folder_says_how_its_images_are_resized(tmp_path, size, code):
    """As in transformers' current models: bicubic where the folder says nothing."""
    spec, prism = SIZES[size], size.startswith("videoprism")
    side = {"height": spec.visual.image_size, "width": spec.visual.image_size}
    cut = {"size": {"shortest_edge": side["height"]}, "crop_size": side}
    fields = cut if "clip" in size else {"size": side}
    fields |= {} if code is None else {"resample": code}
    pixels = {"mean": [0.0] * 3, "std": [1.0] * 3, "resize": "lanczos", "crop": "none"}
    fields |= {"do_normalize": False} if prism else {}
    name, part = ("processor_config.json", "video_processor") if prism else (FILES[0], "")
    (tmp_path / name).write_text(json.dumps({part: fields} if part else fields))
    if code is True or code == 4:
        with pytest.raises(ConversionError, match=f"unknown resample: {code}; choose from"):
            preprocessing(tmp_path, spec, pixels if prism else None)
        return
    entry, where = preprocessing(tmp_path, spec, pixels if prism else None)
    assert (entry["resize"], where) == (FILTERS[3 if code is None else code], name)
    assert entry["image_size"] == side["height"] and (not prism or entry["std"] == [1.0] * 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 64, "crop_size": 48}, "resizes to 64 and crops to 48"),
        ({"size": {"shortest_edge": "48"}}, "resizes to {'shortest_edge': '48'}"),
        ({"size": {}}, "only the shortest edge"),
        ({"crop_size": {"height": 48, "width": None}}, "crops to"),
        ({"image_processor": None}, "image_processor is not an object"),
        ({"image_mean": [0.5, "0.5", 0.5]}, "image_mean must be three numbers"),
        ({"image_mean": 0.5}, "image_mean must be three numbers, got 0.5"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std must be > 0, got"),
        ({"image_std": [0.5, float("nan"), 0.5]}, "three numbers"),
        ({"resample": [3]}, "unknown resample: "),
        ({"do_normalize": "false"}, "do_normalize is off"),
        ({"rescale_factor": 1 / 127.5}, "must be 1/255"),
    ],
)
def test_a_processor_that_cannot_be_followed(tmp_path, fields, message):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"size": 48, "crop_size": 48} | fields))
    visual = VisionSpec(image_size=48, patch_size=16, width=8, layers=1, heads=1, mlp_width=8)
    text = TextSpec(context=10, vocab=7, width=8, layers=1, heads=1, mlp_width=8)
    with pytest.raises(ConversionError, match=f"{path}: .*{message}"):
        preprocessing(tmp_path, DualEncoderSpec(visual, text, 8))


def test_frames_that_are_not_cropped_stay_so_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    visual = VisionSpec(image_size=8, patch_size=4, width=8, layers=1, heads=1, mlp_width=8)
    spec = DualEncoderSpec(visual, TextSpec(10, 7, 8, 1, 1, 8), 8)
    entry = preprocessing(None, spec)[0] | {"crop": "none"}
    for squared in ("CLIPImageProcessor", "BlipImageProcessor", "SiglipImageProcessor"):
        content = preprocessor_json(entry, squared)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
        assert preprocessing(tmp_path, spec)[0] == entry
        process = getattr(transformers, squared).from_pretrained(tmp_path)
        half = np.zeros((24, 48, 3), np.uint8)
        half[:, 24:] = 255
        found = np.asarray(process(half, return_tensors="np")["pixel_values"])[0]
        assert found.shape == (3, 8, 8) and found[0, 0, 0] < 0 < found[0, 0, 7]


def test_the_tokenizer_is_obligatory_and_must_fit(openai, clip_folder, tmp_path, tokenizer):
    torch.save(openai.state_dict(), tmp_path / "clip.pt")
    with pytest.raises(ConversionError, match="holds no tokenizer; --tokenizer"):
        convert(tmp_path / "clip.pt", tmp_path / "model")
    big = tmp_path / "big"
    big.mkdir()
    (big / "vocab.json").write_text(json.dumps({"a": 100}))
    (big / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ConversionError, match="ids go up to 100, .* embeddings for 100"):
        convert(tmp_path / "clip.pt", tmp_path / "model", tokenizer=str(big))
    with pytest.raises(ConversionError, match="holds no tokenizer"):
        convert(tmp_path / "clip.pt", tmp_path / "model", tokenizer=str(clip_folder))


def test_the_way_back_refuses_what_the_layout_cannot_hold(branch_folder, tmp_path):
    with pytest.raises(ConversionError, match="no place in layout clip_hf") as error:
        reverse(branch_folder, tmp_path / "x.safetensors", family="clip_hf")
    assert "visual/btadapter/temporal_2/projection/kernel" in str(error.value)
    with pytest.raises(ConversionError, match="is one file; name a .safetensors"):
        reverse(branch_folder, tmp_path / "folder")
    with pytest.raises(ConversionError, match="read, not written"):
        reverse(branch_folder, tmp_path / "weights.pth")


def test_a_clip_is_written_in_another_layout(clip_folder, tmp_path, tokenizer):
    convert(clip_folder, tmp_path / "model", tokenizer=tokenizer)
    reverse(tmp_path / "model", tmp_path / "openai.safetensors", family="openai")
    settings = ["visual.activation=gelu", "text.activation=quick_gelu", "visual.norm_eps=1e-4"]
    settings += ["visual.heads=2", "text.heads=4"]
    path = tmp_path / "openai.safetensors"
    convert(path, tmp_path / "again", settings=parse_settings(settings), tokenizer=tokenizer)
    (first, a), (second, b) = (read_model_folder(tmp_path / n) for n in ("model", "again"))
    assert first.spec == second.spec
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_values_that_float32_cannot_hold_are_refused(openai, tmp_path, tokenizer):
    state = {name: tensor.numpy() for name, tensor in openai.state_dict().items()}
    state["logit_scale"] = np.array(1 / 3)
    path = _save(tmp_path / "clip.safetensors", state)
    with pytest.raises(ConversionError, match="logit_scale: float32 can't hold its float64"):
        convert(path, tmp_path / "model", tokenizer=tokenizer)
    state["logit_scale"] = np.array(0.5)
    state["ln_final.bias"] = state["ln_final.bias"].astype(ml_dtypes.bfloat16)
    path = _save(tmp_path / "clip.safetensors", state)
    _round_trip(path, tmp_path, tokenizer)


@pytest.mark.parametrize(
    ("dtype", "value", "told"),
    [
        ("float32", np.nan, "1 NaN and 0 infinite"),
        ("float16", np.inf, "0 NaN and 1 infinite"),
        ("bfloat16", -np.inf, "0 NaN and 1 infinite"),
        ("float8_e4m3fn", np.nan, "1 NaN and 0 infinite"),
        ("float8_e5m2", np.inf, "0 NaN and 1 infinite"),
    ],
)
def test_weights_that_are_no_numbers(openai, tmp_path, tokenizer, dtype, value, told):
    state = {name: tensor.numpy() for name, tensor in openai.state_dict().items()}
    projection = state["visual.proj"].astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    projection[3, 5] = value
    path = _save(tmp_path / "clip.safetensors", state | {"visual.proj": projection})
    line = f"visual.proj: {told} of {projection.size} values, the first at [3, 5]"
    with pytest.raises(ConversionError, match=re.escape(line)):
        convert(path, tmp_path / "model", tokenizer=tokenizer)
    assert not (tmp_path / "model").exists()


def test_weights_that_are_no_numbers_convert_on_request(openai, tmp_path, tokenizer):
    state = {name: tensor.numpy().copy() for name, tensor in openai.state_dict().items()}
    state["visual.proj"][3, 5] = np.nan
    path = _save(tmp_path / "clip.safetensors", state)
    report = convert(path, tmp_path / "model", tokenizer=tokenizer, allow_nonfinite=True)
    line = "visual.proj: 1 NaN and 0 infinite of 4096 values, the first at [3, 5]"
    assert line in report and line in (tmp_path / "model/report.txt").read_text()
    kernel = read_model_folder(tmp_path / "model")[1]["visual"]["projection"]["kernel"]
    assert np.argwhere(np.isnan(kernel)).tolist() == [[3, 5]]


def test_float8_there_and_back(openai, tmp_path, tokenizer):
    state = {name: tensor.numpy() for name, tensor in openai.state_dict().items()}
    for name, kind in (("visual.proj", "float8_e4m3fn"), ("text_projection", "float8_e5m2")):
        state[name] = state[name].astype(getattr(ml_dtypes, kind))
    _round_trip(_save(tmp_path / "clip.safetensors", state), tmp_path, tokenizer)


def test_complex_weights_are_refused(openai, tmp_path, tokenizer):
    state = {name: tensor.numpy() for name, tensor in openai.state_dict().items()}
    state["visual.proj"] = state["visual.proj"].astype(np.complex64)
    path = _save(tmp_path / "clip.safetensors", state)
    with pytest.raises(ConversionError, match="float32 can't hold its complex64"):
        convert(path, tmp_path / "model", tokenizer=tokenizer)


def test_a_base_with_weights_that_are_no_numbers(golden, tmp_path, tokenizer):
    tensors = {name: x.copy() for name, x in golden.items() if _is_weight(name)}
    tensors["backbone.class_embedding"][2] = np.inf
    path = _save(tmp_path / "pretrained.safetensors", tensors)
    settings, folder = parse_settings(HEADS), tmp_path / "base"
    convert(path, folder, settings=settings, tokenizer=tokenizer, allow_nonfinite=True)
    tuned = {name: x for name, x in golden.items() if "btadapter" in name}
    path = _save(tmp_path / "tuned.safetensors", tuned)
    line = rf"visual/class_embedding of {folder}: 0 NaN and 1 infinite .* at \[2\]"
    with pytest.raises(ConversionError, match=line):
        convert(path, tmp_path / "model", settings={"base": str(folder)})


def test_tensors_without_elements_are_misshapen(openai, tmp_path, tokenizer):
    state = {name: tensor.numpy() for name, tensor in openai.state_dict().items()}
    for name, shape in (("visual.conv1.weight", (128, 3, 0, 0)), ("visual.proj", (0, 32))):
        changed = state | {name: np.zeros(shape, np.float32)}
        path = _save(tmp_path / "clip.safetensors", changed)
        with pytest.raises(ConversionError, match=f"wrong_shape: {name}"):
            convert(path, tmp_path / "model", tokenizer=tokenizer)


def test_a_tensor_of_a_millionth_layer(openai, tmp_path, tokenizer):
    state = {name: tensor.numpy() for name, tensor in openai.state_dict().items()}
    name = "visual.transformer.resblocks.{}.ln_1.bias"
    path = _save(tmp_path / "far.safetensors", state | {name.format(99_999): np.zeros(128)})
    with pytest.raises(ConversionError, match="visual/blocks_99999, but only 3 layers"):
        convert(path, tmp_path / "model", tokenizer=tokenizer)
    path = _save(tmp_path / "further.safetensors", state | {name.format(10**99): np.zeros(128)})
    with pytest.raises(ConversionError, match=f"unexpected: {name.format(10**99)}"):
        convert(path, tmp_path / "model", tokenizer=tokenizer)


def test_the_words_of_training_frameworks_come_off(openai, tmp_path, tokenizer):
    state = {f"net._orig_mod.{name}": tensor for name, tensor in openai.state_dict().items()}
    average = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"model": state, "model_ema": average, "epoch": 3}, tmp_path / "last.ckpt")
    source = tmp_path / "last.ckpt"
    report = convert(source, tmp_path / "model", tokenizer=tokenizer)
    for line in ("_orig_mod.", "net."):
        assert f"taken off the names: {line}" in report
    assert "not taken: the entry model_ema" in report
    assert "ignored (not part of the state dict): model_ema" in report
    told = reverse(tmp_path / "model", tmp_path / "back.safetensors")
    assert "taken off the names, not written: net." in told
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    np.testing.assert_array_equal(back["visual.proj"], openai.visual.proj.detach().numpy())
    convert(source, tmp_path / "average", tokenizer=tokenizer, key="model_ema")
    first, second = (
        read_model_folder(tmp_path / name)[1]["visual"]["projection"]["kernel"]
        for name in ("model", "average")
    )
    assert (second > first).all()


def test_the_way_back_copies_the_files_of_a_tokenizer_alone(clip_folder, tmp_path, tokenizer):
    convert(clip_folder, tmp_path / "model", tokenizer=tokenizer)
    (tmp_path / "model/tokenizer/code.py").write_text("raise SystemExit")
    reverse(tmp_path / "model", tmp_path / "back")
    assert not (tmp_path / "back/code.py").exists() and (tmp_path / "back/vocab.json").exists()
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "model/tokenizer/added_tokens.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ConversionError, match=r"added_tokens\.json: leads out of the folder"):
        reverse(tmp_path / "model", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    params, config = {"a": np.zeros(1)}, read_model_config(tmp_path / "model")
    with pytest.raises(ModelFolderError, match=r"added_tokens\.json: leads out of the folder"):
        write_model_folder(tmp_path / "other", config, params, tmp_path / "model/tokenizer")


def test_the_source_is_not_the_target(clip_folder, tokenizer):
    with pytest.raises(ConversionError, match="is the source and the target"):
        convert(clip_folder, clip_folder, tokenizer=tokenizer, overwrite=True)


def test_the_target_is_not_replaced_unasked(clip_folder, tmp_path, tokenizer):
    convert(clip_folder, tmp_path / "model", tokenizer=tokenizer)
    with pytest.raises(ModelFolderError, match="--overwrite"):
        convert(clip_folder, tmp_path / "model", tokenizer=tokenizer)
    convert(clip_folder, tmp_path / "model", tokenizer=tokenizer, overwrite=True)
    (tmp_path / "notes").mkdir()
    with pytest.raises(ModelFolderError, match="is not a model folder; remove it"):
        convert(clip_folder, tmp_path / "notes", tokenizer=tokenizer, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "notes"]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("visual.head=2", "unknown key 'visual.head' (did you mean 'visual.heads"),
        ("activation", "activation: must be KEY=VALUE"),
        ("visual.heads=two", "--set visual.heads=two"),
        ("preprocessing.mean=1,2", "three numbers"),
        ("preprocessing.mean=1,2,nan", "a finite number"),
        ("preprocessing.std=1,0,1", "must be > 0"),
        ("preprocessing.resize=area", "choose from nearest, lanczos"),
        ("visual.norm_eps=nan", "a finite number"),
        ("visual.image_size=1000000000", "a whole number from 0 to 10000"),
        ("text.heads=-1", "a whole number from 0"),
    ],
)
def test_settings_that_make_no_sense(pair, message):
    with pytest.raises(ConversionError, match=re.escape(message)):
        parse_settings([pair])


def test_a_setting_given_twice():
    with pytest.raises(ConversionError, match="--set visual.heads is given twice"):
        parse_settings(["visual.heads=2", "visual.heads=4"])


def test_unknown_sources(tmp_path, tokenizer):
    with pytest.raises(ConversionError, match="no such file or folder"):
        convert(tmp_path / "nothing.pt", tmp_path / "model", tokenizer=tokenizer)
    with pytest.raises(ConversionError, match=r"no config\.json"):
        convert(tmp_path, tmp_path / "model", tokenizer=tokenizer)
    path = _save(tmp_path / "x.safetensors", {"some.weight": np.zeros(2, np.float32)})
    with pytest.raises(ConversionError, match="no known family has names like some.weight"):
        convert(path, tmp_path / "model", tokenizer=tokenizer)
    with pytest.raises(ConversionError, match="layout viclip has no names like some.weight"):
        convert(path, tmp_path / "model", "viclip", tokenizer=tokenizer)
    with pytest.raises(ConversionError, match="unknown --family: 'clop'"):
        convert(path, tmp_path / "model", family="clop", tokenizer=tokenizer)
    (tmp_path / "broken.safetensors").write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ConversionError, match=r"a download cut short: [\d,]+ of [\d,]+ bytes"):
        convert(tmp_path / "broken.safetensors", tmp_path / "model", tokenizer=tokenizer)
