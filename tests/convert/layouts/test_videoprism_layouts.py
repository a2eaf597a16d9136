"""VideoPrism's layouts, read and written back, its texts, and files that are not its own."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import videoprism_files
from flax import traverse_util

import vlt
from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.convert.tokenizer import write_tokenizer
from vlt.data.manifests.resources import resolve
from vlt.data.text.tokenize import CLEANINGS, Tokenizer
from vlt.data.video.sample import sample
from vlt.model_io.build import make_model
from vlt.model_io.folder import read_model_config, read_model_folder
from vlt.models.sizes import SIZES
from vlt.models.spec_reading import spec_from_dict

BACK = 1e-7  # for scales, stored minus one; all else comes back bit for bit


@pytest.fixture(scope="module")
def converted(shared, tmp_path_factory):
    """The folder of model folders: one from each layout, and the encoder's."""
    home = tmp_path_factory.mktemp("videoprism")
    words = videoprism_files.tokenizer(home / "words")
    convert(videoprism_files.npz(shared), home / "npz", tokenizer=words)
    published = videoprism_files.folder(shared, home / "published")
    side = {"height": videoprism_files.SIDE, "width": videoprism_files.SIDE}
    processor = {"size": side, "resample": 2, "do_normalize": False}
    told = json.dumps({"video_processor": processor})
    (published / "processor_config.json").write_text(told)
    convert(published, home / "hf")
    encoder = shared / "golden/videoprism/video_only_small.npz_layout.npz"
    convert(encoder, home / "encoder")
    return home


def test_both_layouts_are_one_model(shared, converted):
    config, params = read_model_folder(converted / "npz")
    other, same = read_model_folder(converted / "hf")
    assert config.spec == other.spec and config.spec.visual.stages == (3, 2, 2)
    assert config.spec.fixed_scale == 100 and "logit_scale" not in params
    assert (config.view.sampler, config.view.frames) == ("linspace_open", 4)
    assert (config.preprocessing["resize"], other.preprocessing["resize"]) == (
        "lanczos",
        "bilinear",
    )
    jax.tree.map(np.testing.assert_array_equal, params, same)
    # The authors' names in a file of another kind.
    named = shared / "golden/videoprism/lvt_small.safetensors"
    convert(named, converted / "named", tokenizer=str(converted / "words"))
    jax.tree.map(np.testing.assert_array_equal, params, read_model_folder(converted / "named")[1])


@pytest.mark.parametrize("name", ["npz", "encoder"])
def test_npz_comes_back(shared, converted, name, tmp_path):
    reverse(converted / name, tmp_path / "back.npz")
    stem = {"npz": "lvt_small", "encoder": "video_only_small"}[name]
    source = np.load(shared / f"golden/videoprism/{stem}.npz_layout.npz")
    back = np.load(tmp_path / "back.npz")
    assert {*source.files} == {*back.files}
    for key in source.files:
        np.testing.assert_allclose(back[key], source[key], 0, BACK * key.endswith("scale"), key)


def test_a_folder_of_transformers_comes_back(shared, converted, tmp_path):
    reverse(converted / "hf", tmp_path / "back")
    fields = json.loads((tmp_path / "back/config.json").read_text())
    assert videoprism_files.VISION.items() <= fields["vision_config"].items()
    assert videoprism_files.TEXT.items() <= fields["text_config"].items()
    source = safetensors.numpy.load_file(converted / "published/model.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "back/model.safetensors")
    buffers = {f"text_model.embeddings.position_{name}" for name in ("ids", "embedding")}
    assert {*source} - buffers == {*back}
    for key, tensor in back.items():
        np.testing.assert_allclose(tensor, source[key], 0, BACK, key)


@pytest.mark.slow
def test_transformers_computes_the_same(shared, converted, tmp_path):
    """Videos, and texts with the authors' table of positions in place of transformers' own."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    if not hasattr(transformers, "VideoPrismClipModel"):
        pytest.skip("transformers before 5.15 has no VideoPrism")
    golden = videoprism_files.numbers(shared)
    reverse(converted / "npz", tmp_path / "back", "videoprism_hf")
    model = transformers.VideoPrismClipModel.from_pretrained(tmp_path / "back").eval()
    table = torch.tensor(golden["text_position_table"])
    model.text_model.embeddings.position_embedding.data = table
    inputs = {
        "input_ids": torch.tensor(golden["text_ids"]).long(),
        "attention_mask": torch.tensor(1 - golden["text_paddings"]).long(),
        "pixel_values_videos": torch.tensor(np.moveaxis(golden["video"], -1, 2)),
    }
    with torch.no_grad():
        out = model(**inputs)
    np.testing.assert_allclose(out.video_embeds, golden["video_embed"], 0, 2e-5)
    np.testing.assert_allclose(out.text_embeds, golden["text_embed"], 0, 2e-5)


def test_other_sizes_are_interpolated_as_the_authors_do(shared, tmp_path):
    golden = videoprism_files.numbers(shared)
    words = videoprism_files.tokenizer(tmp_path / "words")
    settings = parse_settings(
        ["visual.image_size=36", "visual.temporal_frames=7", "logit_scale=50", "text.context=9"]
    )
    convert(videoprism_files.npz(shared), tmp_path / "model", settings=settings, tokenizer=words)
    config, params = read_model_folder(tmp_path / "model")
    tables = params["visual"]["position_embedding"], params["visual"]["temporal_embedding"]
    for table, name in zip(tables, ("resized/spatial_pos", "t7/temporal_pos"), strict=True):
        np.testing.assert_allclose(table, golden[name], 0, 1e-6)
    assert config.spec.text.context == 9 and config.spec.fixed_scale == 0
    np.testing.assert_allclose(params["logit_scale"], np.log(50), 1e-6)


@pytest.mark.slow
def test_larger_pictures_are_pooled_as_by_the_authors(shared, tmp_path):
    golden = videoprism_files.numbers(shared)
    words = videoprism_files.tokenizer(tmp_path / "words")
    settings = parse_settings(["visual.image_size=36"])
    convert(videoprism_files.npz(shared), tmp_path / "model", settings=settings, tokenizer=words)
    model = vlt.load(tmp_path / "model")
    with jax.default_matmul_precision("highest"):
        found = model.encode_video(golden["resized/video"], normalize=False)
    np.testing.assert_allclose(found, golden["resized/video_pooled"], 0, 2e-4)


def test_an_encoder_puts_out_tokens_frame_by_frame(shared, converted):
    golden = videoprism_files.numbers(shared)
    with jax.default_matmul_precision("highest"):
        found = vlt.load(converted / "encoder").encode_video(golden["video"])
    np.testing.assert_allclose(found, golden["spatiotemporal_features"], 0, 1e-4)
    with pytest.raises(ValueError, match="reads no text"):
        _ = read_model_config(converted / "encoder").spec.text


def test_texts_are_sentences_without_start_and_end(converted):
    texts = {"": ".", " A Video,of  'playing' drums! ": "a video of playing drums.", "a_b": "a b."}
    assert {text: CLEANINGS["sentence"](text) for text in texts} == texts
    tokenizer = Tokenizer.load(converted / "npz/tokenizer", 64)
    one, same = tokenizer(["A, B", "a b."])
    np.testing.assert_array_equal(one, same)
    assert one[:5].tolist() == [3, 4, 3, 5, 30] and not one[5:].any()  # ▁a▁b.
    assert (tokenizer(["a " * 99]) > 0).all()


def test_frames_are_the_first_of_equal_parts():
    rng = np.random.default_rng(0)
    assert sample("linspace_open", 10, 4, rng=rng).tolist() == [0, 2, 5, 7]
    assert sample("linspace_open", 3, 4, rng=rng).tolist() == [0, 0, 1, 2]


def _files(tensors, target):
    np.savez(target, **tensors)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("params/vision_encoder/temporal_ln/bias"), "missing: .*temporal_ln.bias"),
        (lambda t: t.update({"params/more": np.zeros(2)}), "unexpected: more"),
        (
            lambda t: t.update({"params/text_encoder/cls_emb": np.zeros((1, 1, 1408), "f")}),
            "is of VideoPrism g",
        ),
        (
            lambda t: t.update({"params/vision_encoder/patch_projection/linear/kernel": t[
                "params/vision_encoder/patch_projection/linear/kernel"][:-1]}),
            "pixels of a square",
        ),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_named(shared, tmp_path, change, message):
    tensors = dict(np.load(videoprism_files.npz(shared)))
    change(tensors)
    words = videoprism_files.tokenizer(tmp_path / "words")
    with pytest.raises(ConversionError, match=message):
        convert(_files(tensors, tmp_path / "a.npz"), tmp_path / "model", tokenizer=words)


def test_what_else_is_refused(shared, converted, tmp_path):
    encoder = shared / "golden/videoprism/video_only_small.npz_layout.npz"
    with pytest.raises(ConversionError, match="reads no text"):
        convert(encoder, tmp_path / "model", tokenizer="words")
    with pytest.raises(ConversionError, match="holds no tokenizer"):
        convert(videoprism_files.npz(shared), tmp_path / "model")
    with pytest.raises(ConversionError, match="it is another model's"):
        write_tokenizer(str(converted / "words"), tmp_path / "t", SIZES["videoprism_b"].text)
    folder = videoprism_files.folder(shared, tmp_path / "hf")
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ConversionError, match="model_type is 'clip', not 'videoprism'"):
        convert(folder, tmp_path / "model")
    with pytest.raises(ConversionError, match="vision towers of 3 stages, this one has 1"):
        reverse(resolve("tiny_clip"), tmp_path / "back.npz", "videoprism")


@pytest.mark.parametrize("method", ["tempme", "tome", "evit", "patch_dropout", "btadapter"])
def test_methods_that_need_frames_apart_are_refused_in_a_sentence(method):
    with pytest.raises(ValueError, match=f"^{method} .*, and this vision tower .*stages.*"):
        make_model(SIZES["videoprism_b"], {method: {}}, frames=16)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"stages": [3, 2, 1]}, "add up to layers=7"), ({"pre_norm": True}, "pre_norm=False")],
)
def test_specs_of_other_stages(converted, changed, message):
    fields = read_model_config(converted / "npz").spec.to_dict()
    with pytest.raises(ValueError, match=message):
        spec_from_dict(fields | {"visual": fields["visual"] | changed})


def test_leaves_of_both_layouts_have_the_same_paths(converted):
    names = [
        {*traverse_util.flatten_dict(read_model_folder(converted / name)[1], sep="/")}
        for name in ("npz", "encoder")
    ]
    later = ("text/", "visual/pooler/", "visual/blocks_5/", "visual/blocks_6/")
    assert {path for path in names[0] if not path.startswith(later)} == names[1]
