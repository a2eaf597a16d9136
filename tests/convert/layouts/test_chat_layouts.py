"""Chat models of separate parts, and back: the golden LLaVA, MiniGPT-4 and InstructBLIP."""

import functools
import json
import shutil
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from chat_files import SETTINGS, chosen, golden, leaves, llama_folder, same, save
from flax import traverse_util
from golden_chat import Golden, channels_last

from vlt import load
from vlt.convert import ConversionError, Given, convert, convert_chat, reverse
from vlt.convert.__main__ import main
from vlt.model_io.folder import read_model_config
from vlt.models.continuation import Ending, padded, read, write_whole
from vlt.models.search import Search

NAMES = ("llava", "minigpt4", "instructblip")
IMAGE = "<image>"


@pytest.fixture(scope="module")
def tokenizer(shared):
    return shared / "golden/chat/tokenizer"


@pytest.fixture(scope="module")
def whole(shared, tokenizer, tmp_path_factory):
    """The folder that holds each golden model's folder, by name, converted from one file."""
    folder = tmp_path_factory.mktemp("whole")
    for name in NAMES:
        given = Given(
            source=shared / f"golden/chat/{name}_small.safetensors",
            qformer_tokenizer=tokenizer / "bert_vocab.txt" if name == "instructblip" else None,
        )
        convert_chat(given, folder / name, SETTINGS, str(tokenizer / "tokenizer.model"))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_model_there_and_back(name, whole, shared, tmp_path):
    expected = Golden(shared / "golden/chat", name)
    config = read_model_config(whole / name)
    assert config.spec.visual.layers == 5 and config.spec.qformer == expected.spec.qformer
    same(leaves(whole / name), traverse_util.flatten_dict(expected.params, sep="/"))
    reverse(whole / name, tmp_path / "back.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    same(back, golden(shared, name))


def test_llava_of_parts(whole, shared, tokenizer, tmp_path):
    tensors = golden(shared, "llava")
    llm = chosen(tensors, r"model\.(?!mm_)|lm_head")
    llama_folder(tmp_path / "llm", llm, tokenizer, "tokenizer.json", vocab_size=512)
    clip = chosen(tensors, r"vision_tower\.(?!btadapter|balance)", "backbone.")
    given = Given(
        chat="llava",
        llm=tmp_path / "llm",
        vision=save(tmp_path / "clip.safetensors", clip),
        connector=[save(tmp_path / "p.safetensors", chosen(tensors, r"model\.mm_projector"))],
        branch=[
            # Other tensors in a pre-trained branch's file are ignored.
            save(
                tmp_path / "branch.safetensors",
                chosen(tensors, r"vision_tower\.", "backbone.")
                | {"extra_proj.1.weight": np.ones(48, np.float32)},
            )
        ],
    )
    report = convert_chat(given, tmp_path / "model", {"visual.heads": 4})
    same(leaves(tmp_path / "model"), leaves(whole / "llava"))
    found = read_model_config(tmp_path / "model")
    assert found.spec == read_model_config(whole / "llava").spec
    assert found.methods["btadapter"]["spare"] == 1 and found.view.frames == 64
    rows = [line.split() for line in report.splitlines()[1:6]]
    assert rows[0] == ["part", "tensors", "loaded", "from", "layout"]
    assert rows[1] == ["llm", "30", str(tmp_path / "llm"), "llama"]
    assert rows[3] == ["connector", "2", str(tmp_path / "p.safetensors"), "llava"]
    assert [row[1] for row in rows[1:]] == ["30", "87", "2", "116"]
    assert report.splitlines()[6:10] == [
        "visual: 56 pixels, patch 14, width 48, 5 layers, 4 heads, states of the last but 1, class "
        "token last",
        "text: context 2048, vocabulary 518, width 64, 3 layers, 4 heads, MLP 176, epsilon 1e-06",
        "btadapter: depth 4, spare 1, gates vector, alignment none, max_frames 64",
        "llm: the published files of llava go with their own weights, or Vicuna v1.5 (v1.5)",
    ]
    assert f"vocabulary: 518 words; {tmp_path / 'llm'}/config.json says 512" in report
    # Of two files that hold the tower's blocks, one line tells.
    assert "backbone.layers.{0-4}.mlp.fc1.bias " in report


@pytest.mark.parametrize("name", ["minigpt4", "instructblip"])
def test_a_qformer_of_parts(name, whole, shared, tokenizer, tmp_path):
    tensors = golden(shared, name)
    language = {"minigpt4": "llama_model", "instructblip": "llm_model"}[name]
    projection = {"minigpt4": "llama_proj", "instructblip": "llm_proj"}[name]
    blip = chosen(tensors, r"Qformer|query|ln_vision")
    # A stage of BLIP-2 also holds tensors for texts and for other language models.
    words = {"Qformer.cls.predictions.bias": np.zeros(3, np.float32), "t5_proj.bias": np.ones(2)}
    words |= chosen(golden(shared, "instructblip"), r"Qformer\.bert\.embeddings")
    stages = {
        "model": {n: torch.tensor(np.asarray(x)) for n, x in {**words, **blip}.items()},
        "epoch": 4,
    }
    torch.save(stages, tmp_path / "blip2.pth")
    eva = chosen(tensors, r"visual_encoder\.", "") | {"norm.weight": np.ones(48, np.float32)}
    llm = chosen(tensors, rf"{language}\.", "")
    given = Given(
        chat=name,
        llm=llama_folder(tmp_path / "llm", llm, tokenizer),
        vision=save(tmp_path / "eva.safetensors", eva),
        connector=[
            tmp_path / "blip2.pth",
            save(tmp_path / "p.safetensors", chosen(tensors, projection)),
        ],
        branch=[save(tmp_path / "branch.safetensors", chosen(tensors, "btadapter"))],
        qformer_tokenizer=tokenizer / "bert_vocab.txt" if name == "instructblip" else None,
    )
    settings = {"visual.heads": 4, "qformer.heads": 4}
    report = convert_chat(given, tmp_path / "model", settings)
    same(leaves(tmp_path / "model"), leaves(whole / name))
    assert "of other models: Qformer, t5_proj" in report
    mixed = f"{tmp_path / 'blip2.pth'} and {tmp_path / 'p.safetensors'}"
    assert mixed in report
    words = tmp_path / "model/tokenizer/qformer/vocab.txt"
    assert words.exists() == (name == "instructblip")


@pytest.fixture(scope="module")
def huggingface(shared, tokenizer, tmp_path_factory):
    """The model folder of InstructBLIP, converted from what transformers saves."""
    folder = tmp_path_factory.mktemp("hf")
    save(folder / "model.safetensors", golden(shared, "instructblip_hf"))
    config = shared / "golden/chat/instructblip_hf_small_config.json"
    (folder / "config.json").write_bytes(config.read_bytes())
    (folder / "tokenizer.model").write_bytes((tokenizer / "tokenizer.model").read_bytes())
    (folder / "qformer_tokenizer").mkdir()
    words = (tokenizer / "bert_vocab.txt").read_bytes()
    (folder / "qformer_tokenizer/vocab.txt").write_bytes(words)
    convert(folder, folder / "model")
    return folder / "model"


def test_huggingface_instructblip(huggingface, whole, shared, tmp_path):
    found, expected = leaves(huggingface), leaves(whole / "instructblip")
    expected = {path: x for path, x in expected.items() if "btadapter" not in path}
    assert found["text/token_embedding/embedding"].shape == (514, 64)  # one more, for images
    added = json.loads((huggingface / "tokenizer/tokenizer.json").read_text())["added_tokens"]
    assert [(x["content"], x["id"]) for x in added[3:]] == [("[PAD]", 512), (IMAGE, 513)]
    for path, axis in (("text/token_embedding/embedding", 0), ("text/head/kernel", 1)):
        found[path] = np.take(found[path], range(513), axis)
    same(found, expected)
    reverse(huggingface, tmp_path / "back.safetensors", "instructblip_hf")
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    same(back, golden(shared, "instructblip_hf"))


@pytest.mark.slow
@pytest.mark.usefixtures("highest_precision")
def test_huggingface_instructblip_answers_as_there(huggingface, shared):
    """As in transformers 5.24, which counts image tokens as words that have already occurred."""
    model = load(huggingface)
    stored, lavis = (
        np.load(shared / f"golden/chat/{name}_small.npz")
        for name in ("instructblip_hf", "instructblip")
    )
    videos = channels_last(lavis["videos_bcthw_times8_int8"].swapaxes(1, 2))[:, :1] / 8
    see = jax.jit(lambda p, *x: model.module.apply({"params": p}, *x, method="encode_video")[0])
    tokens = see(model.params, videos, lavis["qformer_ids"])
    video, prompts = np.arange(8), []
    for row, kept in zip(lavis["llm_ids_left"], lavis["llm_mask_left"] > 0, strict=True):
        ids = np.concatenate([np.full(8, 513), row[kept]]).astype(np.int32)
        prompts.append((ids, np.pad(video, (0, kept.sum()), constant_values=-1)))
    words, skipped = padded(prompts, 32)
    ask = functools.partial(write_whole, model.module, model.params, words, tokens, skipped)
    logits = read(model.module, model.params, words, tokens, skipped, 48).logits
    np.testing.assert_allclose(logits, stored["logits_last"], atol=5e-4)
    options = {"max_length": 15, "min_length": 0, "semantics": "transformers"}
    greedy = ask(Search("greedy", **options), Ending(2), prompt=False)
    assert greedy.tolist() == stored["greedy_ids"].tolist()
    beams = Search("beam", 5, repetition_penalty=1.5, **options)
    assert ask(beams, Ending(2), prompt=True).tolist() == stored["beam_ids"].tolist()


def test_tuned_files_go_before_what_they_were_tuned_from(whole, shared, tokenizer, tmp_path):
    """BT-Adapter's btadapter_weight.bin and mm_projector.bin override the whole LLaVA."""
    tensors = golden(shared, "llava")
    branch = chosen(tensors, r"vision_tower\.btadapter", "model.vision_tower.btadapter")
    branch = {n: torch.tensor(x) for n, x in branch.items() if "_layers.3" not in n}
    torch.save(branch, tmp_path / "btadapter_weight.bin")
    tuned = {
        "model.mm_projector.weight": torch.full((64, 48), 2.0),
        "model.mm_projector.bias": torch.full((64,), 3.0),
        "model.embed_tokens.weight": torch.full((518, 64), 4.0),
    }
    torch.save(tuned, tmp_path / "mm_projector.bin")
    llava = chosen(tensors, r"model\.|lm_head")
    given = Given(
        chat="llava",
        llm=llama_folder(tmp_path / "llava", llava, tokenizer),
        vision=save(
            tmp_path / "clip.safetensors",
            chosen(tensors, r"vision_tower\.(?!btadapter|balance)", "backbone."),
        ),
        connector=[tmp_path / "mm_projector.bin"],
        branch=[tmp_path / "btadapter_weight.bin"],
    )
    report = convert_chat(given, tmp_path / "model", {"visual.heads": 4})
    found = leaves(tmp_path / "model")
    assert (found["connector/projection/kernel"] == 2).all()
    assert (found["text/token_embedding/embedding"] == 4).all()
    assert (found["visual/btadapter/layer_gate"] == 0).all()
    options = read_model_config(tmp_path / "model").methods["btadapter"]
    assert (options["depth"], options["spare"], options["gates"]) == (3, 0, "vector")
    assert f"mm_projector.bin goes before {tmp_path / 'llava'}" in report
    assert "words added to the tokenizer: <im_patch>, <im_start>, <im_end>, <vid_patch>" in report
    words = json.loads((tmp_path / "model/tokenizer/tokenizer.json").read_text())["added_tokens"]
    assert {t["content"]: t["id"] for t in words}["<vid_end>"] == 517


def test_new_words_get_rows(shared, tokenizer, tmp_path):
    tensors = golden(shared, "llava")
    rows = {"model.embed_tokens.weight": 512, "lm_head.weight": 512}
    base = {n: x[: rows.get(n)] for n, x in chosen(tensors, r"model\.(?!mm)|lm_head").items()}
    stage = chosen(tensors, r"model\.mm_projector")
    stage["model.embed_tokens.weight"] = np.full((2, 64), 7, np.float32)
    given = Given(
        chat="llava",
        llm=llama_folder(tmp_path / "llm", base, tokenizer),
        vision=save(
            tmp_path / "clip.safetensors",
            chosen(tensors, r"vision_tower\.(?!btadapter|balance)", "backbone."),
        ),
        connector=[save(tmp_path / "stage1.safetensors", stage)],
        random=["branch"],
    )
    settings = {"visual.heads": 4, "text.new_rows": "image", "visual.image_size": 70}
    convert_chat(given, tmp_path / "model", settings)
    found = leaves(tmp_path / "model")
    embedding, old = found["text/token_embedding/embedding"], base["model.embed_tokens.weight"]
    np.testing.assert_array_equal(embedding[:512], old)
    np.testing.assert_allclose(embedding[[512, 515]], old.mean(0)[None].repeat(2, 0), atol=1e-6)
    assert (embedding[513:515] == 7).all()
    assert found["text/head/kernel"].shape == (64, 518)
    assert found["visual/position_embedding"].shape == (26, 48)
    assert read_model_config(tmp_path / "model").preprocessing["image_size"] == 70
    blocks = found["visual/blocks_3/mlp/fc1/kernel"]
    np.testing.assert_array_equal(found["visual/btadapter/spatial_2/mlp/fc1/kernel"], blocks)


def test_llava_as_transformers_saves_it(tokenizer, tmp_path):
    """Whole, and with the vision tower of a folder or a file of its own."""
    import transformers

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**sizes, num_hidden_layers=2, image_size=4, patch_size=2)
    text = transformers.LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=512)
    llava = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(vision_config=vision, text_config=text)
    )
    llava.save_pretrained(tmp_path / "llava")
    llava.model.vision_tower.save_pretrained(tmp_path / "tower")
    words = (tokenizer / "tokenizer.model").read_bytes()
    (tmp_path / "llava/tokenizer.model").write_bytes(words)
    convert(tmp_path / "llava", tmp_path / "whole")
    expected, spec = leaves(tmp_path / "whole"), read_model_config(tmp_path / "whole").spec
    weight = llava.model.vision_tower.encoder.layers[1].mlp.fc1.weight.detach().numpy()
    np.testing.assert_array_equal(expected["visual/blocks_1/mlp/fc1/kernel"], weight.T)
    settings = {"visual.heads": 2, "visual.activation": "quick_gelu"}
    for tower, told in (("tower", {}), ("tower/model.safetensors", settings)):
        given = Given(chat="llava", llm=tmp_path / "llava", vision=tmp_path / tower)
        convert_chat(given, tmp_path / "model", told, overwrite=True)
        same(leaves(tmp_path / "model"), expected)
        assert read_model_config(tmp_path / "model").spec == spec


def test_what_nobody_gave_is_named(shared, tokenizer, tmp_path):
    tensors = golden(shared, "llava")
    llm = llama_folder(tmp_path / "llm", chosen(tensors, r"model\.(?!mm)|lm_head"), tokenizer)
    clip = save(
        tmp_path / "clip.safetensors", chosen(tensors, r"vision_tower\.(?!bt|ba)", "backbone.")
    )
    given = Given(chat="llava", llm=llm, vision=clip)
    with pytest.raises(ConversionError, match="connector: not given; --connector=FILE, or --ra"):
        convert_chat(given, tmp_path / "model", {"visual.heads": 4})
    with pytest.raises(ConversionError, match="llm: not given"):
        convert_chat(Given(chat="llava", vision=clip), tmp_path / "model", {"visual.heads": 4})
    with pytest.raises(
        ConversionError, match="holds nothing of the connector .* but llm of a chat"
    ):
        convert_chat(Given(chat="llava", connector=[llm]), tmp_path / "model", {})
    with pytest.raises(ConversionError, match="a part of a chat model .* --chat=llava"):
        convert(llm, tmp_path / "model")
    with pytest.raises(ConversionError, match="holds no Q-Former, which minigpt4 has"):
        projector = save(tmp_path / "p.safetensors", chosen(tensors, r"model\.mm_projector"))
        convert_chat(
            Given(chat="minigpt4", llm=llm, connector=[projector]), tmp_path / "model", SETTINGS
        )
    with pytest.raises(ConversionError, match="--set tempme.r: a chat model has no use for it"):
        convert_chat(Given(chat="llava", llm=llm), tmp_path / "model", {"tempme.r": 2})
    with pytest.raises(ConversionError, match="--random=tower: unknown part"):
        convert_chat(Given(chat="llava", llm=llm, random=["tower"]), tmp_path / "model", {})
    assert not (tmp_path / "model").exists()


def test_halves_are_stored_where_nothing_trains_them(whole, shared, tokenizer, tmp_path):
    tensors = golden(shared, "llava")
    half = {n: x.astype(ml_dtypes.bfloat16) for n, x in tensors.items()}
    given = Given(source=save(tmp_path / "llava.safetensors", half))
    settings = {key: SETTINGS[key] for key in SETTINGS if key != "qformer.heads"}
    convert_chat(given, tmp_path / "model", settings, str(tokenizer))
    found = leaves(tmp_path / "model")
    assert {str(x.dtype) for p, x in found.items() if p.startswith("text/")} == {"bfloat16"}
    assert {str(x.dtype) for p, x in found.items() if not p.startswith("text/")} == {"float32"}
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    same(safetensors.numpy.load_file(tmp_path / "back.safetensors"), half)
    reverse(tmp_path / "model", tmp_path / "llm", part="llm")
    again = safetensors.numpy.load_file(tmp_path / "llm/model.safetensors")
    same(again, chosen(half, r"model\.(?!mm)|lm_head"))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_was_trained_here_goes_to_the_layout_of_its_connector(whole, name, tmp_path):
    shutil.copytree(whole / name, tmp_path / "model")
    file = tmp_path / "model/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"family": "chat", "source": {}}))
    told = reverse(tmp_path / "model", tmp_path / "back.safetensors").splitlines()[0]
    assert told.endswith(f"tensors, layout {name}")


def test_a_link_out_of_the_tokenizers_folder(whole, tmp_path):
    shutil.copytree(whole / "llava", tmp_path / "model")
    file = tmp_path / "model/tokenizer/tokenizer.json"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConversionError, match="tokenizer.json: leads out of the folder"):
        reverse(tmp_path / "model", tmp_path / "llm", part="llm")
    assert not (tmp_path / "llm").exists()


def test_a_packaged_model_goes_by_its_name(tmp_path):
    told = reverse("tiny_chat", tmp_path / "connector.safetensors", part="connector")
    assert told.splitlines()[0].endswith("2 tensors, layout llava")


def test_weights_that_are_no_numbers(shared, tokenizer, tmp_path):
    tensors = golden(shared, "llava")
    tensors["model.mm_projector.bias"] = np.full(64, np.nan, np.float32)
    given = Given(source=save(tmp_path / "llava.safetensors", tensors))
    settings = {key: SETTINGS[key] for key in SETTINGS if key != "qformer.heads"}
    with pytest.raises(ConversionError, match="mm_projector.bias: 64 NaN and 0 infinite of 64"):
        convert_chat(given, tmp_path / "model", settings, str(tokenizer))
    assert [path.name for path in tmp_path.iterdir()] == ["llava.safetensors"]


def test_the_command(whole, shared, tmp_path, capsys):
    source = str(shared / "golden/chat/llava_small.safetensors")
    tokenizer = str(shared / "golden/chat/tokenizer")
    command = [source, str(tmp_path / "m"), "--tokenizer", tokenizer]
    command += [f"--set={key}={value}" for key, value in SETTINGS.items() if key != "qformer.heads"]
    assert main(command) == 0 and "connector  2" in capsys.readouterr().out
    assert (
        main([str(tmp_path / "m"), str(tmp_path / "b.safetensors"), "--reverse", "--part=branch"])
        == 0
    )
    assert "116 tensors, layout llava" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: absent: no such file or folder"):
        main(["--chat=llava", "--llm=absent", str(tmp_path / "n")])
    assert main([source, str(tmp_path / "n"), "--part=llm"]) == 1
    assert "--part has no use without --reverse" in capsys.readouterr().err


def test_configs_that_lie(shared, tokenizer, tmp_path):
    tensors = chosen(golden(shared, "llava"), r"model\.|lm_head")
    given = Given(
        chat="llava",
        llm=tmp_path / "llm",
        vision=save(
            tmp_path / "clip.safetensors",
            chosen(golden(shared, "llava"), r"vision_tower\.(?!bt|ba)", "backbone."),
        ),
    )
    for changes, message in (
        ({"num_hidden_layers": 10**5}, "says 100000 text layers, the tensors are for 3"),
        ({"num_hidden_layers": 4}, "missing: text/blocks_3/"),
        ({"text_config": [1]}, "text_config is not an object"),
        ({"num_attention_heads": 64}, "heads of 1 channels; rotary attention turns pairs"),
        ({"num_attention_heads": 3}, "heads=3 does not divide width=64"),
        ({"hidden_size": 128}, r"wrong_shape: .* wanted \[518, 128\]"),
    ):
        llama_folder(tmp_path / "llm", tensors, tokenizer, **changes)
        with pytest.raises(ConversionError, match=message):
            convert_chat(given, tmp_path / "model", {"visual.heads": 4})


def test_files_that_lie(shared, tokenizer, tmp_path):
    """Names, sizes and shapes that do not fit are reported, and nothing is written."""
    tensors = golden(shared, "llava")
    cases = {
        r"unexpected: model.layers.0.extra \(\[1\]\)": {"model.layers.0.extra": np.ones(1)},
        r"wrong_shape: .*mm_projector.weight \(.* is \[3, 2\], wanted \[48, 64\]\)": {
            "model.mm_projector.weight": np.ones((2, 3), np.float32)
        },
        r"wrong_shape: model.norm.weight|model.norm.weight": {"model.norm.weight": np.ones((2, 3))},
    }
    settings = {key: SETTINGS[key] for key in SETTINGS if key != "qformer.heads"}
    for message, changes in cases.items():
        path = save(tmp_path / "x.safetensors", tensors | changes)
        with pytest.raises(ConversionError, match=message):
            convert_chat(Given(source=path), tmp_path / "model", settings, str(tokenizer))
    data = bytearray(path.read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    for cut in (4, 8 + size // 2, len(data) - 5):
        path.write_bytes(data[:cut])
        with pytest.raises(ConversionError, match=str(path)):
            convert_chat(Given(source=path), tmp_path / "model", settings, str(tokenizer))
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_tower_that_pools_is_read_token_by_token(shared, tokenizer, tmp_path):
    """PE-Core's tower and preprocessing, without pooling and projection; and EVA02's."""
    llm = chosen(golden(shared, "llava"), r"model\.(?!mm_)|lm_head")
    llama_folder(tmp_path / "llm", llm, tokenizer, "tokenizer.json")
    for name, rope in (("pe_core_small", "pe"), ("eva02_small", "eva")):
        given = Given(
            chat="llava",
            llm=tmp_path / "llm",
            vision=shared / f"golden/pe_core/{name}.safetensors",
            random=["connector"],
        )
        convert_chat(given, tmp_path / name, {"visual.heads": 4})
        found = read_model_config(tmp_path / name)
        assert (found.spec.visual.rope, found.spec.visual.pool) == (rope, "cls")
        assert (found.preprocessing["mean"] == [0.5] * 3) == (rope == "pe")
        model = load(tmp_path / name, frames=2)
        side = found.spec.visual.image_size
        answer = model.generate(np.zeros((1, 2, side, side, 3), np.uint8), "what?", max_length=2)
        assert len(answer) == 1


@pytest.mark.slow
@pytest.mark.parametrize("file", ["lvt_small", "video_only_small"])
def test_a_tower_of_stages_is_read_frame_by_frame(shared, tokenizer, tmp_path, file):
    """Both kinds of VideoPrism: tokens are averaged over frames, or all are kept."""
    llm = chosen(golden(shared, "llava"), r"model\.(?!mm_)|lm_head")
    llama_folder(tmp_path / "llm", llm, tokenizer, "tokenizer.json")
    given = Given(
        chat="llava",
        llm=tmp_path / "llm",
        vision=shared / f"golden/videoprism/{file}.npz_layout.npz",
        random=["connector"],
    )
    for tokens, count in (("mean", 16), ("frames", 32)):
        convert_chat(given, tmp_path / tokens, {"chat.tokens": tokens})
        found = read_model_config(tmp_path / tokens)
        assert found.spec.visual.pool == "mean" and found.preprocessing["mean"] == [0.0] * 3
        model = load(tmp_path / tokens, frames=2)
        assert model.module.slots(2) == count
        video = np.zeros((1, 2, 24, 24, 3), np.uint8)
        assert len(model.generate(video, "what?", max_length=2)) == 1
