"""BLIP's layouts: read, written back bit for bit, and refused where they do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from blip_models import CLASSES, DEC, ENC, HEADS, SEP, authors_state, bert_words, blip
from flax import traverse_util
from transformers import PreTrainedModel

from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.convert.files.reading import read_checkpoint
from vlt.convert.layouts.blip import BLIP
from vlt.convert.layouts.huggingface_blip import blip_json, blip_spec, stated_kind
from vlt.convert.tables.sizes import infer_spec
from vlt.model_io.folder import model_shapes, read_model_config, read_model_folder
from vlt.models.sizes import SIZES

TRAINING = ["visual_encoder_m", "vision_proj_m", "text_encoder_m", "text_proj_m"]
QUEUES = ["image_queue", "text_queue", "idx_queue", "ptr_queue"]


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    return bert_words(tmp_path_factory.mktemp("words") / "vocab.txt")


@pytest.fixture(scope="session")
def captioner() -> PreTrainedModel:
    return blip("captioner")


def _save(path: Path, state: dict, **entries: object) -> Path:
    torch.save({"model": state, **entries}, path)
    return path


def _same_bits(ours: dict[str, np.ndarray], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert tensor.numpy().dtype == ours[name].dtype, name
        assert np.array_equal(tensor.numpy(), ours[name]), name


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", CLASSES)
def test_a_huggingface_folder_comes_back_as_one(kind, tmp_path, words):
    model = blip(kind)
    model.save_pretrained(tmp_path / "hf")
    report = convert(tmp_path / "hf", tmp_path / "model", tokenizer=words)
    assert f"hf: layout blip_hf, {kind}" in report
    back = reverse(tmp_path / "model", tmp_path / "back")
    assert ("no place for temperature, not written" in back) == (kind == "retriever")
    again = CLASSES[kind].from_pretrained(tmp_path / "back")
    _same_bits({n: t.numpy() for n, t in again.state_dict().items()}, model.state_dict())
    original, written = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "back")
    )
    assert written["architectures"] == original["architectures"]
    for tower in ("text_config", "vision_config"):
        same = original[tower] | written[tower]
        assert {k: v for k, v in same.items() if k != "projection_dim"} == {
            k: v for k, v in original[tower].items() if k != "projection_dim"
        }
    # The result can be converted like the first source.
    convert(tmp_path / "back", tmp_path / "again")
    specs = [read_model_config(tmp_path / name).spec for name in ("model", "again")]
    assert specs[0] == specs[1]


@pytest.mark.parametrize("kind", CLASSES)
def test_the_authors_file_comes_back(kind, tmp_path, words):
    state = authors_state(blip(kind))
    path = _save(tmp_path / "blip.pth", state)
    settings = parse_settings(HEADS)
    report = convert(path, tmp_path / "model", settings=settings, tokenizer=words)
    assert f"layout blip, {kind}" in report
    back = reverse(tmp_path / "model", tmp_path / "back.safetensors")
    gone = [n for n in state if n.endswith("position_ids") or n.partition(".")[0] in TRAINING]
    if kind == "retriever":
        gone += QUEUES
        assert "left out (not read by this model): text_encoder_m.* (" in report
        assert "dropped, not written: image_queue\n" in back
    _same_bits(
        safetensors.numpy.load_file(tmp_path / "back.safetensors"),
        {name: tensor for name, tensor in state.items() if name not in gone},
    )


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", CLASSES)
def test_both_layouts_give_the_same_model(kind, tmp_path, words):
    model = blip(kind)
    model.save_pretrained(tmp_path / "hf")
    path = _save(tmp_path / "blip.pth", authors_state(model))
    convert(tmp_path / "hf", tmp_path / "a", tokenizer=words)
    convert(path, tmp_path / "b", settings=parse_settings(HEADS), tokenizer=words)
    (first, leaves), (second, others) = (read_model_folder(tmp_path / n) for n in "ab")
    assert first.spec == second.spec and first.preprocessing == second.preprocessing
    if kind == "retriever":
        assert leaves.pop("temperature") == np.float32(0.07)
        assert others.pop("temperature") == np.float32(0.05)
    np.testing.assert_equal(leaves, others)
    # From one layout to the other.
    reverse(tmp_path / "b", tmp_path / "back", family="blip_hf")
    again = CLASSES[kind].from_pretrained(tmp_path / "back")
    _same_bits({n: t.numpy() for n, t in again.state_dict().items()}, model.state_dict())


def test_what_config_and_report_say(captioner, tmp_path, words):
    path = _save(tmp_path / "blip.pth", authors_state(captioner))
    report = convert(path, tmp_path / "model", settings=parse_settings(HEADS), tokenizer=words)
    config = read_model_config(tmp_path / "model")
    assert (config.family, config.spec.kind, config.spec.embed_dim) == ("blip", "captioner", 0)
    visual, text = config.spec.visual, config.spec.text
    assert (visual.image_size, visual.patch_size, visual.heads, visual.layers) == (32, 8, 4, 3)
    assert (visual.activation, visual.norm_eps, visual.pre_norm) == ("gelu", 1e-6, False)
    assert (text.source_width, text.heads, text.norm_eps, text.dropout) == (32, 3, 1e-12, 0.1)
    assert (text.vocab, text.decode_id, text.encode_id, text.end_id) == (ENC + 1, DEC, ENC, SEP)
    assert config.preprocessing["crop"] == "none"
    for line in (
        f"text: [DEC] {DEC}, [ENC] {ENC}, the last two of the vocabulary",
        "preprocessing: BLIP's, assumed",
        "dropped (holds no weights): text_decoder.bert.embeddings.position_ids",
        "the same as text_decoder.cls.predictions.bias, kept once: "
        "text_decoder.cls.predictions.decoder.bias",
    ):
        assert f"{line}\n" in report
    rows = [line.split() for line in report.splitlines() if "attn.qkv.weight" in line]
    assert rows[0][4:6] == ["visual/blocks_{0-2}/attention/{query,key,value}/kernel", "split"]


@pytest.mark.parametrize("size", ["blip_b16_captioner", "blip_l16_retriever"])
def test_tensors_tell_published_sizes(size):
    spec = SIZES[size]
    tree = traverse_util.flatten_dict(model_shapes(spec, {}), sep="/")
    leaves = {path: np.broadcast_to(np.float32(0), x.shape) for path, x in tree.items()}
    assert infer_spec(leaves, BLIP.for_kind(spec.kind), {})[0] == spec


@pytest.mark.parametrize("size", [name for name in SIZES if name.startswith("blip_")])
def test_config_json_tells_published_sizes(size, tmp_path):
    spec = SIZES[size]
    if size == "blip_l16_answerer":
        with pytest.raises(ConversionError, match="as wide as the text's, not 1024 and 768"):
            blip_json(spec)
        return
    (tmp_path / "config.json").write_text(json.dumps(blip_json(spec)))
    assert blip_spec(tmp_path, spec.kind, {}) == (spec, [])
    assert stated_kind(blip_json(spec)) == spec.kind


def test_heads_are_64_wide_unless_set(captioner, tmp_path, words):
    path = _save(tmp_path / "blip.pth", authors_state(captioner))
    with pytest.raises(ConversionError, match="visual heads can't be width/64 at width 32"):
        convert(path, tmp_path / "model", tokenizer=words)


def test_a_fine_tuned_file_of_token_mixing(captioner, tmp_path, words):
    """Its mixing block has a plain block's names, so mixing must be set."""
    state = {f"module.{name}": tensor for name, tensor in authors_state(captioner).items()}
    rest = {"optimizer": {"state": {}, "param_groups": []}, "config": {"vit": "base"}, "epoch": 4}
    path = _save(tmp_path / "checkpoint_best.pth", state, **rest)
    settings = parse_settings([*HEADS, "token_mixing.layers=2"])
    report = convert(path, tmp_path / "model", settings=settings, tokenizer=words)
    assert "ignored (not part of the state dict): optimizer" in report
    assert read_model_config(tmp_path / "model").methods == {"token_mixing": {"layers": [2]}}
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    kept = {name: t for name, t in state.items() if "position_ids" not in name}
    _same_bits(safetensors.numpy.load_file(tmp_path / "back.safetensors"), kept)
    settings = parse_settings([*HEADS, "token_mixing.layers=published"])
    with pytest.raises(ConversionError, match="mixes from block 11 on"):
        convert(path, tmp_path / "x", settings=settings, tokenizer=words)


def test_a_checkpoint_for_another_task_says_what_is_missing(captioner, tmp_path, words):
    path = _save(tmp_path / "blip.pth", authors_state(captioner))
    asked = parse_settings([*HEADS, "kind=retriever"])
    with pytest.raises(ConversionError) as error:
        convert(path, tmp_path / "model", settings=asked, tokenizer=words)
    assert str(error.value).splitlines() == [
        f"{path}: holds text_decoder (kind captioner)",
        "  kind retriever: missing text_encoder, vision_proj, text_proj, itm_head; "
        "unexpected text_decoder",
    ]
    with pytest.raises(ConversionError, match="layout blip is for captioner, .*, not painter"):
        convert(path, tmp_path / "model", settings={"kind": "painter"}, tokenizer=words)
    path = _save(tmp_path / "answerer.pth", authors_state(blip("answerer")))
    with pytest.raises(ConversionError, match="kind captioner: unexpected text_encoder$"):
        convert(path, tmp_path / "model", settings={"kind": "captioner"}, tokenizer=words)


def test_a_config_for_another_task(captioner, tmp_path, words):
    captioner.save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf/config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"architectures": ["BlipForQuestionAnswering"]}))
    with pytest.raises(ConversionError, match="kind answerer: missing text_encoder$"):
        convert(tmp_path / "hf", tmp_path / "model", tokenizer=words)
    # A kind that is set takes precedence.
    convert(tmp_path / "hf", tmp_path / "model", settings={"kind": "captioner"}, tokenizer=words)


def test_parts_of_no_model_are_told(tmp_path, words):
    state = authors_state(blip("retriever"))
    state = {name: t for name, t in state.items() if not name.startswith("text_proj")}
    path = _save(tmp_path / "blip.pth", state)
    with pytest.raises(ConversionError, match="kind unknown") as error:
        convert(path, tmp_path / "model", tokenizer=words)
    assert "kind retriever: missing text_proj\n" in str(error.value)
    state["cls_head.0.weight"] = torch.zeros(3, 3)
    path = _save(tmp_path / "nlvr.pth", {n: t for n, t in state.items() if "text_" not in n})
    with pytest.raises(ConversionError, match="holds itm_head, vision_proj .kind unknown"):
        convert(path, tmp_path / "model", tokenizer=words)


@pytest.mark.parametrize("kind", CLASSES)
def test_pre_trained_weights_have_the_parts_of_all(kind, tmp_path, words):
    wide = {"vision_config": {"hidden_size": 48}}
    states = {name: authors_state(blip(name, **wide)) for name in CLASSES}
    path = _save(tmp_path / "model_base.pth", states["answerer"] | states["retriever"])
    with pytest.raises(ConversionError, match=r"set kind=captioner\|retriever\|answerer"):
        convert(path, tmp_path / "model", settings=parse_settings(HEADS), tokenizer=words)
    settings = parse_settings([*HEADS, f"kind={kind}"])
    report = convert(path, tmp_path / "model", settings=settings, tokenizer=words)
    assert read_model_config(tmp_path / "model").spec.kind == kind
    assert ("(not read by this model): text_decoder.*" in report) == (kind == "retriever")
    assert ("(not read by this model): temp\n" in report) == (kind != "retriever")
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    back = read_checkpoint(tmp_path / "back.safetensors").tensors
    own = {n for n in states[kind] if n.partition(".")[0] not in [*TRAINING, *QUEUES]}
    assert {*back} == {n for n in own if not n.endswith("position_ids")}


def test_tied_tensors(captioner, tmp_path, words):
    state = authors_state(captioner)
    alias, name = (
        "text_decoder.cls.predictions.decoder.weight",
        "text_decoder.bert.embeddings.word_embeddings.weight",
    )
    settings = parse_settings(HEADS)
    path = _save(tmp_path / "untied.pth", state | {alias: state[alias] + 1e-6})
    with pytest.raises(ConversionError, match=rf"{alias} is not the same as {name}"):
        convert(path, tmp_path / "model", settings=settings, tokenizer=words)
    path = _save(tmp_path / "alias.pth", {n: t for n, t in state.items() if n != name})
    convert(path, tmp_path / "model", settings=settings, tokenizer=words)
    _, params = read_model_folder(tmp_path / "model")
    assert np.array_equal(params["text"]["token_embedding"]["embedding"], state[name].numpy())
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    assert name in back and alias not in back


def test_what_does_not_fit_is_listed(captioner, tmp_path, words):
    state = authors_state(captioner)
    del state["visual_encoder.blocks.1.attn.proj.bias"]
    state["visual_encoder.temp_pos_embed"] = torch.zeros(1, 8, 32)
    state["text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"] = torch.zeros(48, 48)
    path = _save(tmp_path / "blip.pth", state)
    with pytest.raises(ConversionError) as error:
        convert(path, tmp_path / "model", settings=parse_settings(HEADS), tokenizer=words)
    assert str(error.value).splitlines()[1:] == [
        "  missing: visual_encoder.blocks.1.attn.proj.bias "
        "(for visual/blocks_1/attention/out/bias)",
        "  unexpected: visual_encoder.temp_pos_embed ([1, 8, 32])",
        "  wrong_shape: text_decoder.bert.encoder.layer.1.crossattention.self.key.weight "
        "(text/blocks_1/cross_attention/key/kernel is [48, 48], wanted [32, 48])",
    ]
    assert not (tmp_path / "model").exists()


def test_half_precision(captioner, tmp_path, words):
    state = {name: t.half() for name, t in authors_state(captioner).items()}
    path = _save(tmp_path / "blip.pth", state)
    convert(path, tmp_path / "model", settings=parse_settings(HEADS), tokenizer=words)
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    kept = {name: t for name, t in state.items() if "position_ids" not in name}
    _same_bits(safetensors.numpy.load_file(tmp_path / "back.safetensors"), kept)


@pytest.mark.parametrize("named", [None, [], [["BlipForQuestionAnswering"]], "Blip", {"a": 1}, 5])
def test_classes_that_a_config_does_not_name(named: object):
    assert stated_kind({"model_type": "blip", "architectures": named}) is None


def test_what_config_json_can_say_and_a_spec_not(captioner, tmp_path, words):
    captioner.save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf/config.json"
    good = json.loads(path.read_text())
    for tower, changes, message in (
        ("text_config", {"pad_token_id": 1}, "pad_token_id is 1, not 0"),
        ("text_config", {"hidden_act": "relu"}, "hidden_act must be .* got 'relu'"),
        (
            "vision_config",
            {"patch_size": [8, 8]},
            r"patch_size must be a whole number .* got \[8, 8",
        ),
    ):
        path.write_text(json.dumps(good | {tower: good[tower] | changes}))
        with pytest.raises(ConversionError, match=message):
            convert(tmp_path / "hf", tmp_path / "model", tokenizer=words)
    with pytest.raises(ConversionError, match=r"--set text.heads: .*config\.json says it"):
        convert(tmp_path / "hf", tmp_path / "x", settings={"text.heads": 3}, tokenizer=words)


def test_values_that_transformers_has_of_its_own(captioner, tmp_path, words):
    captioner.save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf/config.json"
    fields = json.loads(path.read_text())
    del fields["vision_config"]["layer_norm_eps"], fields["text_config"]["hidden_dropout_prob"]
    path.write_text(json.dumps(fields))
    report = convert(tmp_path / "hf", tmp_path / "model", tokenizer=words)
    assert "visual.norm_eps: 1e-05, BLIP's own code has 1e-06 (--set visual.norm_eps)\n" in report
    assert "text.dropout: 0, BLIP's own code has 0.1 (--set text.dropout)\n" in report
    spec = read_model_config(tmp_path / "model").spec
    assert (spec.visual.norm_eps, spec.text.dropout) == (1e-5, 0.0)
    settings = parse_settings(["visual.norm_eps=1e-6", "text.dropout=0.1"])
    report = convert(tmp_path / "hf", tmp_path / "set", settings=settings, tokenizer=words)
    assert "BLIP's own code" not in report
    spec = read_model_config(tmp_path / "set").spec
    assert (spec.visual.norm_eps, spec.text.dropout) == (1e-6, 0.1)


def test_processor_files(captioner, tmp_path, words):
    captioner.save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf/preprocessor_config.json"
    fields = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5, 0.4, 0.3]}
    path.write_text(json.dumps(fields))
    report = convert(tmp_path / "hf", tmp_path / "model", tokenizer=words)
    assert "preprocessing: preprocessor_config.json\n" in report
    entry = read_model_config(tmp_path / "model").preprocessing
    assert (entry["resize"], entry["mean"], entry["crop"]) == ("bilinear", [0.5, 0.4, 0.3], "none")
    reverse(tmp_path / "model", tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "again")
    assert read_model_config(tmp_path / "again").preprocessing == entry
    path.write_text(json.dumps({"size": {"height": 24, "width": 32}}))
    with pytest.raises(ConversionError, match="resized to 32 by 32"):
        convert(tmp_path / "hf", tmp_path / "x", tokenizer=words)


def test_layouts_of_other_models(captioner, clip_folder, tmp_path, words, tokenizer):
    path = _save(tmp_path / "blip.pth", authors_state(captioner))
    convert(path, tmp_path / "model", settings=parse_settings(HEADS), tokenizer=words)
    with pytest.raises(ConversionError, match="layout clip_hf is for dual_encoder, not captioner"):
        reverse(tmp_path / "model", tmp_path / "back.safetensors", "clip_hf")
    with pytest.raises(ConversionError, match="layout blip is one file"):
        reverse(tmp_path / "model", tmp_path / "back")
    with pytest.raises(ConversionError, match="text.dropout: a CLIP has none"):
        convert(clip_folder, tmp_path / "x", settings={"text.dropout": 0.0}, tokenizer=tokenizer)
    with pytest.raises(ConversionError, match="layout clip_hf is for dual_encoder, not captioner"):
        convert(clip_folder, tmp_path / "x", settings={"kind": "captioner"}, tokenizer=tokenizer)
