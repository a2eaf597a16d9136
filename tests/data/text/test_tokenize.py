import gzip
import json
import socket

import numpy as np
import pytest

from vlt.data import moving_shapes
from vlt.data.text.tokenize import (
    Tokenizer,
    copy_tokenizer,
    write_bert_tokenizer,
    write_clip_tokenizer,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def connect(*_):
        raise AssertionError("tried the network")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(scope="module")
def clip_folder(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_clip_tokenizer(shared / "vocab/bpe_simple_vocab_16e6.txt.gz", folder)
    return folder


@pytest.fixture
def words(tmp_path):
    moving_shapes.write_tokenizer(tmp_path)
    return tmp_path


def test_clip_ids_equal_the_golden_ones(shared, clip_folder):
    cases = json.loads((shared / "vocab/golden_tokens.json").read_text())["cases"]
    tokenizer = Tokenizer.load(clip_folder, context=300)
    ids = tokenizer([case["text"] for case in cases])
    for row, case in zip(ids, cases, strict=True):
        wanted = case["clip_bpe_ids"]
        np.testing.assert_array_equal(row[: len(wanted)], wanted, err_msg=case["text"])
        assert not row[len(wanted) :].any()
    assert tokenizer.cut == 0


def test_clip_cleans_text_like_openai(clip_folder):
    tokenizer = Tokenizer.load(clip_folder, context=16)
    messy = tokenizer(["It’s a schÃ¶n cat &amp;amp; dog"])
    np.testing.assert_array_equal(messy, tokenizer(["it's a schön cat & dog"]))


@pytest.mark.smoke
def test_a_long_text_is_cut_before_its_end_token_and_counted(words):
    tokenizer = Tokenizer.load(words, context=6)
    end = len(moving_shapes.VOCABULARY) - 1
    ids = tokenizer(["a red circle moves left", "a red circle moves", "a red circle"])
    assert ids.dtype == np.int32 and ids.shape == (3, 6)
    np.testing.assert_array_equal(ids[0], ids[1])
    np.testing.assert_array_equal(ids.argmax(1), [5, 5, 4])
    assert (ids.max(1) == end).all() and ids[2, 5] == 0
    assert tokenizer.cut == 1


def test_no_texts_give_no_rows(words):
    assert Tokenizer.load(words, context=4)([]).shape == (0, 4)


def test_what_is_no_tokenizer_folder_is_refused_without_the_network(tmp_path, words):
    with pytest.raises(FileNotFoundError, match="openai/clip"):
        Tokenizer.load("openai/clip-vit-base-patch32", context=77)
    with pytest.raises(ValueError, match="context must be >= 2, .*got 1"):
        Tokenizer.load(words, context=1)
    description = json.loads((words / "tokenizer.json").read_text())
    (words / "tokenizer.json").write_text(json.dumps(description | {"post_processor": None}))
    with pytest.raises(ValueError, match="must add a start and an end token"):
        Tokenizer.load(words, context=8)


@pytest.mark.parametrize(
    ("named", "path"),
    [("Own", ["code.Own", "code.Own"]), (None, ["code.Own", None]), ("Own", "code.Own")],
)
def test_code_of_a_tokenizer_never_runs(words, tmp_path_factory, monkeypatch, named, path):
    marker = tmp_path_factory.mktemp("marker") / "ran"
    settings = json.loads((words / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": path}} | (
        {"tokenizer_class": named} if named else {}
    )
    (words / "tokenizer_config.json").write_text(json.dumps(settings))
    (words / "code.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "class Own(PreTrainedTokenizerFast): pass\n"
    )
    questions = []
    monkeypatch.setattr("builtins.input", lambda *asked: questions.append(asked) or "y")
    if named:
        with pytest.raises(ValueError, match=r"code of its own \(auto_map\), which is never run"):
            Tokenizer.load(words, context=8)
    else:
        assert Tokenizer.load(words, context=8)([""]).shape == (1, 8)
    assert not marker.exists() and not questions


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "not JSON"),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '"text"'),
        ("tokenizer_config.json", '{"tokenizer_class": 5}'),
        (
            "tokenizer_config.json",
            '{"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": "x"}',
        ),
    ],
)
def test_a_broken_tokenizer_is_one_sentence(words, file, content):
    (words / file).write_text(content)
    with pytest.raises(ValueError, match=f"^{words}: no tokenizer loads from it: "):
        Tokenizer.load(words, context=8)


def test_a_panic_of_the_library_is_one_sentence(words):
    description = json.loads((words / "tokenizer.json").read_text())
    piece = {"SpecialToken": {"id": "absent", "type_id": 0}}
    template = {"single": [piece], "pair": [piece], "special_tokens": {}}
    description["post_processor"] = {"type": "TemplateProcessing"} | template
    (words / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="no tokenizer loads from it: no entry found for key"):
        Tokenizer.load(words, context=8)


def test_only_the_files_of_a_tokenizer_are_copied(words, tmp_path_factory):
    target = tmp_path_factory.mktemp("target")
    for name in ("code.py", "notes.txt", "model.safetensors"):
        (words / name).write_text("x")
    copy_tokenizer(words, target)
    names = ["tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in target.iterdir()) == names
    (words / "vocab.json").mkdir()
    with pytest.raises(ValueError, match=r"vocab.json: not a plain file"):
        copy_tokenizer(words, target)


def test_links_of_the_hubs_cache_are_followed(words, tmp_path_factory):
    cache = tmp_path_factory.mktemp("models--a--b")
    snapshot, target = cache / "snapshots" / "0123", cache / "target"
    snapshot.mkdir(parents=True)
    words.rename(cache / "blobs")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    copy_tokenizer(snapshot, target)
    assert Tokenizer.load(target, context=8)([""]).shape == (1, 8)
    assert not any(path.is_symlink() for path in target.iterdir())
    (snapshot / "vocab.json").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="vocab.json: leads out of the folder, to /etc/hostname"):
        copy_tokenizer(snapshot, target)


def test_a_short_merges_file_is_refused(tmp_path):
    with gzip.open(tmp_path / "merges.gz", "wt") as file:
        file.write("heading\ni n\nt h\n")
    with pytest.raises(ValueError, match="merges.gz: must hold a heading and 48894 pairs"):
        write_clip_tokenizer(tmp_path / "merges.gz", tmp_path / "out")


def test_ids_become_texts_again(words, shared, tmp_path):
    texts = ["a red circle moves left", "a blue square"]
    tokenizer = Tokenizer.load(words, context=9)
    ids = tokenizer(texts)
    assert tokenizer.decode(ids) == texts
    ids[:, -1] = 3  # nothing after the end is read
    assert tokenizer.decode(ids) == texts
    write_bert_tokenizer(shared / "vocab" / "bert_base_uncased_vocab.txt", tmp_path / "bert")
    tokenizer = Tokenizer.load(tmp_path / "bert", context=24)
    ids = tokenizer(["A man's dog isn't running, is it?"])
    ids[:, 0] = 30522  # [DEC], which is not in the files
    assert tokenizer.decode(ids) == ["a man's dog isn't running, is it?"]


def test_a_prompt_is_the_beginning_of_a_text(words):
    tokenizer = Tokenizer.load(words, context=6)
    text = tokenizer(["a red circle moves"])[0]
    np.testing.assert_array_equal(tokenizer.prompt("a red circle moves"), text[:5])
    np.testing.assert_array_equal(tokenizer.prompt(""), text[:1])
    with pytest.raises(ValueError, match="a prompt of 6 tokens; a text has 6, and words must foll"):
        tokenizer.prompt("a red circle moves left")


@pytest.mark.parametrize("text", ["a cat \ud83d", "a \0cat"])
def test_what_is_no_text_is_refused(tmp_path, text):
    moving_shapes.write_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path, 8)
    for tokenize in (lambda: tokenizer(["fine", text]), lambda: tokenizer.prompt(text)):
        with pytest.raises(ValueError, match="^'a .*(half of a surrogate pair|is a NUL)"):
            tokenize()
