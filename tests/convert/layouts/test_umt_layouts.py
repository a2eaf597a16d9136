"""UMT's layouts: read, written back bit for bit, taken from one stage to another, and refused."""

from pathlib import Path
from typing import Any

import golden_umt
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import traverse_util
from golden_umt import HEADS, words

from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.convert.layouts.umt import UMT
from vlt.convert.tables.sizes import infer_spec
from vlt.model_io.folder import model_shapes, read_model_config, read_model_folder
from vlt.model_io.view import View
from vlt.models.sizes import SIZES

Tensors = dict[str, np.ndarray]
LEFT_OUT = ("vision_encoder.clip_decoder.", "clip_teacher.")
HEAD = "text_encoder.cls."


@pytest.fixture(scope="module")
def state(shared: Path) -> Tensors:
    """Tensors in the layout of pre-training, with a teacher, as the published files hold them."""
    teacher = {"clip_teacher.conv1.weight": np.ones((2, 3, 1, 4, 4), np.float32)}
    return golden_umt.weights(shared, "retrieval") | teacher


@pytest.fixture(scope="module")
def answering(shared: Path) -> Tensors:
    return golden_umt.weights(shared, "qa")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    return words(tmp_path_factory.mktemp("words") / "vocab.txt")


def save(path: Path, tensors: Tensors, **rest: Any) -> Path:
    """Saves a torch file of the tensors, in a dict as `model` if there are other entries."""
    arrays = {name: torch.from_numpy(x.copy()) for name, x in tensors.items()}
    torch.save({"model": arrays, **rest} if rest else arrays, path)
    return path


def converted(
    tensors: Tensors, work: Path, tokenizer: str, *settings: str, name: str = "retrieval"
) -> Path:
    path = save(work / "umt.pth", tensors)
    given = parse_settings([*HEADS[name], *settings])
    convert(path, work / "model", settings=given, tokenizer=tokenizer)
    return work / "model"


def back(folder: Path) -> Tensors:
    reverse(folder, folder.parent / "back.safetensors")
    return safetensors.numpy.load_file(folder.parent / "back.safetensors")


def same_bits(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert found[name].tobytes() == np.ascontiguousarray(tensor).tobytes(), name


def without(tensors: Tensors, *starts: str) -> Tensors:
    gone = ("position_ids", *starts)
    return {n: x for n, x in tensors.items() if not n.endswith(gone[0]) and not n.startswith(gone)}


def test_pre_trained_file_there_and_back(state: Tensors, tmp_path: Path, vocabulary: str):
    folder = converted(state, tmp_path, vocabulary)
    config = read_model_config(folder)
    visual, text = config.spec.visual, config.spec.text
    assert (config.family, config.spec.kind, config.spec.embed_dim) == ("umt", "retriever", 40)
    assert config.spec.frame_scores and not config.spec.masked_words
    assert (visual.image_size, visual.patch_size, visual.layers, visual.heads) == (24, 8, 2, 4)
    assert visual.joint and visual.pool_norm and visual.positions == "sinusoid"
    assert not visual.cls and not visual.key_bias and not visual.pre_norm
    assert (text.layers, text.fusion_layer, text.token_types, text.vocab) == (4, 2, 2, 60)
    assert (text.decode_id, text.encode_id, text.end_id, text.mask_id) == (2, 2, 3, 4)
    assert config.view == View("viclip_middle", 12)
    assert config.preprocessing["mean"] == [0.485, 0.456, 0.406]
    report = (folder / "report.txt").read_text()
    for line in (
        "visual.image_size: 24, which no tensor tells",
        "left out (not read by this model): vision_encoder.clip_decoder.* (8)",
        "left out (not read by this model): text_encoder.cls.* (7)",
        "left out (not read by this model): clip_teacher",
    ):
        assert f"{line}\n" in report
    same_bits(back(folder), without(state, *LEFT_OUT, HEAD))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefix", "rest", "dtype"),
    [("module.", {}, np.float32), ("", {"epoch": 1}, np.float16), ("", {}, np.float16)],
)
def test_files_as_training_saves_them(state, tmp_path, vocabulary, prefix, rest, dtype):
    """With the head of masked words kept; and fine-tuned files, which have none."""
    tensors = {prefix + n: x.astype(dtype) for n, x in without(state).items()}
    path = save(tmp_path / "umt.pth", tensors, **rest)
    settings = parse_settings([*HEADS["retrieval"], "masked_words=true"])
    convert(path, tmp_path / "model", settings=settings, tokenizer=vocabulary)
    assert read_model_config(tmp_path / "model").spec.masked_words
    found = back(tmp_path / "model")
    same_bits(found, without(tensors, *(prefix + start for start in LEFT_OUT)))
    tuned = {
        name.replace("text_encoder.bert.", "text_encoder."): x
        for name, x in without(state, *LEFT_OUT, HEAD).items()
    }
    (tmp_path / "tuned").mkdir()
    folder = converted(tuned, tmp_path / "tuned", vocabulary)
    same_bits(back(folder), tuned)


@pytest.mark.slow
def test_answerer_there_and_back(answering: Tensors, tmp_path: Path, vocabulary: str):
    folder = converted(answering, tmp_path, vocabulary, name="qa")
    config = read_model_config(folder)
    assert config.spec.kind == "answerer" and not config.spec.frame_scores
    assert (config.spec.text.layers, config.spec.text.fusion_layer) == (4, 2)
    assert config.spec.text.writer.layers == 2
    same_bits(back(folder), without(answering))


def test_an_answerer_is_made_of_a_pre_trained_file(answering, tmp_path, vocabulary):
    """Its decoder starts as the layers that read the video, with the embeddings and the head."""
    encoder = {
        name.replace("text_encoder.", "text_encoder.bert."): x
        for name, x in answering.items()
        if not name.startswith("text_decoder.")
    }
    head = {
        name.replace("text_decoder.cls", "text_encoder.cls"): x
        for name, x in answering.items()
        if name.startswith("text_decoder.cls")
    }
    tied = {
        "text_encoder.cls.predictions.decoder.weight": encoder[
            "text_encoder.bert.embeddings.word_embeddings.weight"
        ]
    }
    rest = {"temp": np.array(0.1, np.float32), "itm_head.weight": np.zeros((2, 48), np.float32)}
    rest |= {"vision_encoder.pool_norm.weight": np.ones(48, np.float32)}
    for name in ("vision_proj", "text_proj"):
        rest[f"{name}.bias"] = np.zeros(40, np.float32)
    tensors = encoder | head | tied | rest
    folder = converted(tensors, tmp_path, vocabulary, "kind=answerer", name="qa")
    config, params = read_model_folder(folder)
    leaves = traverse_util.flatten_dict(params, sep="/")
    assert config.spec.kind == "answerer"
    for layer in range(2):
        for path in leaves:
            if path.startswith(f"text/blocks_{layer}/"):
                begun = leaves[path.replace(f"text/blocks_{layer}", f"question/blocks_{layer + 2}")]
                np.testing.assert_array_equal(leaves[path], begun, path)
    for leaf in ("token_embedding/embedding", "position_embedding", "type_embedding"):
        np.testing.assert_array_equal(leaves[f"text/{leaf}"], leaves[f"question/{leaf}"])
    name = "text_encoder.cls.predictions.transform.dense.weight"
    np.testing.assert_array_equal(leaves["text/lm_head/transform/kernel"], head[name].T)
    report = (folder / "report.txt").read_text()
    assert "text_decoder: made of the other tensors, as training starts it\n" in report
    assert "left out (not read by this model): vision_proj\n" in report
    assert "left out (not read by this model): vision_encoder.pool_norm\n" in report
    # The file that is written back is one of question answering.
    made = back(folder)
    assert "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight" in made


@pytest.mark.slow
def test_single_modality_tower_goes_into_another_model(state, tmp_path, vocabulary):
    folder = converted(state, tmp_path, vocabulary)
    rng = np.random.default_rng(0)
    tower = {
        name.removeprefix("vision_encoder."): rng.normal(size=x.shape).astype(np.float32)
        for name, x in state.items()
        if name.startswith(("vision_encoder.encoder.", "vision_encoder.clip_decoder."))
    }
    path = save(tmp_path / "b16_ptk710.pth", tower, epoch=1)
    with pytest.raises(ConversionError, match="tower of one modality alone; --set base=FOLDER"):
        convert(path, tmp_path / "none", tokenizer=vocabulary)
    convert(path, tmp_path / "other", settings=parse_settings([f"base={folder}"]))
    old, new = (
        traverse_util.flatten_dict(read_model_folder(f)[1], sep="/")
        for f in (folder, tmp_path / "other")
    )
    kernel = tower["encoder.blocks.1.mlp.fc1.weight"].T
    np.testing.assert_array_equal(new["visual/blocks_1/mlp/fc1/kernel"], kernel)
    for path in ("visual/pool_norm/scale", "visual/projection/kernel", "temperature"):
        np.testing.assert_array_equal(new[path], old[path])
    assert "clip_decoder.* (8)" in (tmp_path / "other/report.txt").read_text()


def recognition(state: Tensors) -> Tensors:
    """A tower fine-tuned with a classifier."""
    start = "vision_encoder.encoder."
    tower = {n.removeprefix(start): x for n, x in state.items() if n.startswith(start)}
    norms = {n.replace("norm.", "fc_norm."): tower.pop(n) for n in ("norm.weight", "norm.bias")}
    head = {"head.weight": np.zeros((400, 64), np.float32), "head.bias": np.zeros(400, np.float32)}
    return tower | norms | head


@pytest.mark.quick(1)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_classifier_is_refused(state, tmp_path, prefix):
    tensors = {prefix + name: x for name, x in recognition(state).items()}
    path = save(tmp_path / "k400.pth", tensors, epoch=1)
    with pytest.raises(ConversionError, match="recognition, whose head of 400 classes no model"):
        convert(path, tmp_path / "model")


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("change", "settings", "why"),
    [
        ({"temp": None}, (), "missing: temp .for temperature"),
        ({"vision_encoder.encoder.blocks.1.attn.v_bias": None}, (), "missing: .*attn.v_bias"),
        ({"vision_encoder.encoder.pos_embed": (1, 36, 64)}, (), "unexpected: .*pos_embed"),
        ({"vision_encoder.encoder.patch_embed.proj.weight": (64, 3, 2, 8, 8)}, (), "of 2 frames"),
        ({"itm_head.weight": (2, 50)}, (), "wrong_shape: itm_head.weight"),
        ({"text_encoder.cls.predictions.decoder.bias": (60,)}, (), "is not the same as"),
        ({}, ("kind=captioner",), "layout umt is for retriever, answerer, not captioner"),
        ({}, ("visual.image_size=20",), "not a multiple of the patches' 8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(state, tmp_path, vocabulary, change, settings, why):
    tensors = dict(state)
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape:
            tensors[name] = np.full(shape, 7, np.float32)
    keep = ("masked_words=true",) if "cls" in why or "same" in why else ()
    given = [s for s in HEADS["retrieval"] if not (settings and s[:10] == settings[0][:10])]
    path = save(tmp_path / "umt.pth", tensors)
    with pytest.raises(ConversionError, match=why):
        convert(
            path,
            tmp_path / "model",
            settings=parse_settings([*given, *settings, *keep]),
            tokenizer=vocabulary,
        )


@pytest.mark.slow
def test_widths_of_question_answering_must_be_the_same(answering, tmp_path, vocabulary):
    """The decoder's layers are built for the tower's tokens."""
    tensors = dict(answering)
    for name, x in answering.items():
        if name.startswith("vision_encoder.") or "crossattention.self.key.weight" in name:
            doubled = [(0, 48) if n == 48 else (0, 0) for n in x.shape]
            if not name.startswith("vision_encoder."):
                doubled[0] = (0, 0)
            tensors[name] = np.pad(x, doubled)
        if "crossattention.self.value.weight" in name:
            tensors[name] = np.pad(x, ((0, 0), (0, 48)))
    for name in [n for n in tensors if ".attn.qkv.weight" in n]:
        tensors[name] = np.zeros((288, 96), np.float32)
    for name in [n for n in tensors if ".mlp.fc1" in n and n.startswith("vision")]:
        tensors[name] = np.zeros((192, 96) if "weight" in name else (192,), np.float32)
    with pytest.raises(ConversionError, match="both must be the same"):
        converted(tensors, tmp_path, vocabulary, name="qa")


@pytest.mark.slow
def test_another_vocabulary_is_refused(state, tmp_path):
    short = words(tmp_path / "vocab.txt")
    Path(short).write_text("\n".join(Path(short).read_text().split()[:-1]) + "\n")
    with pytest.raises(ConversionError, match="has 59 tokens, .*embeddings for 60"):
        converted(state, tmp_path, short)


@pytest.mark.slow
@pytest.mark.parametrize("size", [name for name in SIZES if name.startswith("umt_")])
def test_tensors_tell_published_sizes(size):
    spec = SIZES[size]
    tree = traverse_util.flatten_dict(model_shapes(spec, {}), sep="/")
    leaves = {path: np.broadcast_to(np.float32(0), x.shape) for path, x in tree.items()}
    assert infer_spec(leaves, UMT.for_kind(spec.kind), {})[0] == spec
