"""`vlt checkpoints`: its table has every checkpoint a config asks for, and says what is here."""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
import shlex
import shutil

import jax
import pytest
from helpers import ROOT

from vlt.checkpoints import main, state_of, verify
from vlt.command_line import convert
from vlt.configuration.checkpoints import CHECKPOINTS, how_to_get
from vlt.configuration.published import Published
from vlt.convert import parse_settings
from vlt.convert.layouts.families import FAMILIES
from vlt.data.manifests.resources import ASSETS
from vlt.model_io.folder import ModelFolderError, model_shapes, read_model_config
from vlt.models.sizes import SIZES

GOLDEN = ROOT / "tests" / "golden" / "configs"


def test_every_checkpoint_of_every_config_is_listed_and_no_other_but_chat_models():
    text = "\n".join(file.read_text() for file in GOLDEN.glob("*.txt"))
    asked = {*re.findall(r"'checkpoints/(\w+)'", text)}
    chat = {name for name, entry in CHECKPOINTS.items() if entry.is_chat}
    assert asked | chat == CHECKPOINTS.keys()


@pytest.mark.parametrize("entry", CHECKPOINTS.values(), ids=lambda entry: entry.name)
def test_commands_convert_into_the_folder_that_configs_name(entry, monkeypatch):
    monkeypatch.setattr(convert, "check_paths", lambda *_: None)  # nothing was downloaded
    assert entry.family in FAMILIES and entry.licence and entry.url.startswith("https://")
    assert entry.sha256 in entry.url  # OpenAI's URLs contain it, and no other entry has one
    if not entry.command:
        assert "not published" in entry.note
        return
    vlt, command, *arguments = shlex.split(entry.command)
    options = convert.parse("vlt convert", arguments)
    assert (vlt, command, options.target) == ("vlt", "convert", f"checkpoints/{entry.name}")
    assert parse_settings(options.set) is not None
    if not entry.is_chat:
        textless = FAMILIES[entry.family].kind == "encoder"
        assert textless or options.tokenizer or "base" in parse_settings(options.set)
    elif options.delta:
        assert options.llm


SPECS = {
    **dict.fromkeys(("vificlip_b16_k400", "vificlip_b16_k400_base"), "clip_b16"),
    "clip_b32": "clip_b32",
    "laclip_b16": "clip_b16",
    "metaclip_b16": "clip_b16",
    "blip_caption_b16": "blip_b16_captioner",
    "blip_caption_l16": "blip_l16_captioner",
    "blip_retrieval_b16": "blip_b16_retriever",
    "blip_retrieval_l16": "blip_l16_retriever",
    "blip_vqa_b16": "blip_b16_answerer",
    "blip_vqa_l16": "blip_l16_answerer",
    "xclip_b16": "clip_b16",
    "mote_b16": "clip_b16",
    "dgl_msrvtt_b32": "clip_b32",
    "dgl_msrvtt_b16": "clip_b16",
    "dgl_lsmdc_b32": "clip_b32",
    "dgl_activitynet_b32": "clip_b32",
}
METHODS = {
    "xclip_b16": {"xclip": {}},
    "mote_b16": {"mote": {"classes": 400}},
    "dgl_msrvtt_b32": {"dgl": {"latent": "transformer", "frames": 12}},
    "dgl_msrvtt_b16": {"dgl": {"latent": "transformer", "frames": 12}},
    "dgl_lsmdc_b32": {"dgl": {}},
    "dgl_activitynet_b32": {"dgl": {"latent": "transformer", "frames": 64}},
}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(each, marks=() if each.name == "clip_b32" else pytest.mark.slow, id=each.name)
        for each in CHECKPOINTS.values()
        if each.size
    ],
)
def test_sizes_are_those_of_the_models(entry):
    methods = METHODS.get(entry.name, {})
    frames = methods.get("dgl", {}).get("frames") or 8
    shapes = model_shapes(SIZES[SPECS.get(entry.name, entry.name)], methods, frames)
    assert entry.size == 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Published:
    """A checkpoint entry of the tiny CLIP's size, in whose folder a copy of the tiny CLIP lies."""
    monkeypatch.chdir(tmp_path)
    config = read_model_config(ASSETS / "tiny_clip")
    shapes = model_shapes(config.spec, config.methods, config.frames)
    size = 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))
    shutil.copytree(ASSETS / "tiny_clip", "checkpoints/clip_b32")
    return dataclasses.replace(CHECKPOINTS["clip_b32"], size=size)


def test_what_is_here_and_whole(tiny):
    assert state_of(tiny) == "yes"
    assert state_of(dataclasses.replace(tiny, size=0)) == "yes"
    assert state_of(dataclasses.replace(tiny, name="clip_b16")) == "no"
    other = state_of(CHECKPOINTS["clip_b32"])
    assert other.startswith("other: its weights are ") and other.endswith(" MB, not 605 MB")


@pytest.mark.parametrize("part", ["config.json", "weights", "weights/state/_METADATA"])
def test_a_damaged_folder_says_what_is_wrong(tiny, part):
    path = tiny.folder / part
    shutil.rmtree(path) if path.is_dir() else path.write_text("")
    assert re.match(rf"damaged: .*{tiny.folder}", state_of(tiny))


def test_weights_of_another_model_are_damage(tiny):
    shutil.rmtree(tiny.folder / "weights")
    shutil.copytree(ASSETS / "tiny_blip/weights", tiny.folder / "weights")
    assert re.match("damaged: .* leaves differ", state_of(tiny))


def test_the_list(tiny, capsys, monkeypatch):
    monkeypatch.setitem(CHECKPOINTS, "clip_b32", tiny)
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^clip_b32 +openai +MIT +\d+ MB +yes\n.*{tiny.url}", printed, re.M)
    assert re.search(r"^btadapter_l14 +btadapter +Apache-2.0 +unknown +no$", printed, re.M)
    assert all(entry.command in printed for entry in CHECKPOINTS.values())
    assert main(["clip_b32", "clip_b16", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(e["name"], e["here"]) for e in entries] == [("clip_b32", "yes"), ("clip_b16", "no")]
    assert entries[0]["command"] == tiny.command and entries[0]["folder"] == str(tiny.folder)


def test_a_name_that_no_config_asks_for(capsys):
    with pytest.raises(SystemExit):
        main(["clip_b23"])
    assert "no config asks for 'clip_b23' (did you mean 'clip_b32'" in capsys.readouterr().err


def test_a_file_is_told_by_its_sum(tmp_path, monkeypatch, capsys):
    file = tmp_path / "ViT-B-32.pt"
    file.write_bytes(b"weights")
    with pytest.raises(ValueError, match="its sha256 is .* instead of the publisher's 40d36571"):
        verify(file, ())
    with pytest.raises(ValueError, match="none is known of eva_clip_psz14.pt"):
        verify(file, ("eva_clip_g",))
    with pytest.raises(ValueError, match="no checkpoint known here has it"):
        verify(file.rename(tmp_path / "mine.pt"), ())
    known = dataclasses.replace(
        CHECKPOINTS["clip_b32"], sha256=hashlib.sha256(b"weights").hexdigest()
    )
    monkeypatch.setitem(CHECKPOINTS, "clip_b32", known)
    assert main(["--verify", str(tmp_path / "mine.pt")]) == 0
    assert "mine.pt: whole, OpenAI's CLIP ViT-B-32 as published (clip_b32)" in (
        capsys.readouterr().out
    )
    assert main(["clip_b16", "--verify", str(tmp_path / "mine.pt")]) == 1
    assert "instead of the publisher's 5806e77c" in capsys.readouterr().err


def test_an_absent_folder_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFolderError, match="no such folder; vlt checkpoints clip_b16 says"):
        read_model_config("checkpoints/clip_b16")
    assert "clip_b16" in how_to_get(tmp_path / "checkpoints/clip_b16")
    for other in ("checkpoints/mine", "clip_b16", "other/clip_b16", pathlib.Path("/")):
        assert how_to_get(other) == ""
