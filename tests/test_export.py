"""What a run is exported as computes what the run computes."""

import json
import re
from functools import partial

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export as jax_export

import vlt
from configs import common
from vlt.configuration import save_run
from vlt.convert import ConversionError, convert, reverse
from vlt.data.manifests.resources import resolve
from vlt.export import export, main, trained_model
from vlt.model_io.folder import ModelFolderError
from vlt.model_io.loading import load_model
from vlt.training.checkpoints import TrainingCheckpoints
from vlt.training.rules import partition


def run(folder, trained, move, checkpoint="tiny_clip", **methods):
    """A run on `checkpoint` whose trained leaves were changed by `move`."""
    config = common.base()
    config.model.update(checkpoint=checkpoint, size="tiny_clip", context=16, frames=4)
    config.model.frame_norm = True
    config.model.methods = tuple(methods)
    config.model.update(methods)
    config.rules = ((trained, {"lr": 1.0}), (".*", "frozen"))
    save_run(folder, config)
    leaves, _ = partition(load_model(config.model, 0).params, config.rules)
    checkpoints = TrainingCheckpoints(folder, 1)
    checkpoints.save(3, {"trained": jax.tree.map(move, leaves)}, {})
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose trained leaves are all shifted by one."""
    trained = "visual/btadapter/.*|text/caption_reconstruction/.*"
    methods = {"btadapter": {"depth": 2}, "caption_reconstruction": {}}
    return run(tmp_path_factory.mktemp("run"), trained, lambda x: x + 1, **methods)


def jitter(x):
    return x + 0.2 * np.random.default_rng(1).standard_normal(x.shape, dtype=np.float32)


TEMPME = {"layers": (2, 3), "join": (2, 2), "r": 1, "keep_cross": 70, "keep_intra": 90}


@pytest.fixture(scope="module")
def tempme(tmp_path_factory):
    """A run of LoRA and TempMe."""
    folder = tmp_path_factory.mktemp("tempme")
    return run(folder, ".*/(lora_[ab]|clip_position)", jitter, lora={}, tempme=TEMPME)


VIDEO = np.random.default_rng(0).integers(0, 255, (3, 4, 32, 32, 3), dtype=np.uint8)
TEXTS = ["a red circle moves left on a black background", "an empty white background"]


@pytest.fixture(scope="module")
def expected(workdir):
    model = trained_model(workdir)
    encode = jax.jit(partial(model.module.apply, method="encode_video"))
    return encode({"params": model.params}, VIDEO)[0]


def test_model_folder_loads_and_agrees(workdir, expected, tmp_path):
    export(workdir, tmp_path / "model", "orbax")
    model = vlt.load(tmp_path / "model")
    np.testing.assert_allclose(model.encode_video(VIDEO), expected, atol=1e-6)
    assert [type(m).__name__ for m in model.module.methods] == ["BTAdapter"]
    assert model.config.frames == 4
    assert "caption_reconstruction" not in model.params["text"]


def test_encoders_of_a_loaded_model(workdir, tmp_path):
    model = vlt.load("tiny_clip")
    text = model.encode_text(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(text, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(model.encode_text(TEXTS[0])[0], text[0], atol=1e-6)
    raw = np.asarray(model.encode_text(TEXTS, normalize=False))
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=-1, keepdims=True), text, atol=1e-5)
    pixels = (VIDEO / 255 - np.array(model.module.mean)) / np.array(model.module.std)
    np.testing.assert_allclose(
        model.encode_video(pixels.astype(np.float32)), model.encode_video(VIDEO), atol=1e-5
    )
    with pytest.raises(ValueError, match="float64"):
        model.encode_video(pixels)
    with pytest.raises(ValueError, match="16, 16"):
        model.encode_video(VIDEO[:, :, :16, :16])


def test_programs_need_nothing_of_ours(workdir, expected, tmp_path):
    export(workdir, tmp_path / "programs", "stablehlo")
    program = jax_export.deserialize((tmp_path / "programs" / "video.stablehlo").read_bytes())
    np.testing.assert_allclose(program.call(VIDEO), expected, atol=1e-5)
    np.testing.assert_allclose(program.call(VIDEO[:1]), expected[:1], atol=1e-5)


def test_safetensors_hold_every_leaf_and_the_config(workdir, tmp_path):
    target = tmp_path / "new" / "folder" / "model.safetensors"
    assert main(["--workdir", str(workdir), str(target), "--format", "safetensors"]) == 0
    with safetensors.safe_open(target, "np") as file:
        names, metadata = set(file.keys()), file.metadata()
        gate = file.get_tensor("visual/btadapter/final_gate")
    np.testing.assert_array_equal(gate, np.ones_like(gate))
    assert json.loads(metadata["vlt"])["methods"] == {"btadapter": {"depth": 2}}
    model = trained_model(workdir)
    assert len(names) == len(jax.tree.leaves(model.params))


def test_targets_are_seen_to_before_any_work(workdir, tmp_path, monkeypatch, capsys):
    """Refused if they cannot be written, or hold more than we write."""
    monkeypatch.setattr("vlt.export.trained_model", lambda *_: pytest.fail("work was done"))
    (tmp_path / "file").touch()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "notes.txt")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("video.stablehlo", "notes.txt"):
        (programs / name).touch()
    for target, form, reason in (
        ("file/x.safetensors", "safetensors", "cannot be written: .*file is a file, not a folder"),
        ("file/model", "orbax", "cannot be written"),
        ("notes.txt", "safetensors", "is not a safetensors file"),
        ("link.safetensors", "safetensors", "is a link to"),
        ("programs", "stablehlo", "also holds notes.txt, which is not part of an exported program"),
    ):
        words = [f"--workdir={workdir}", str(tmp_path / target), f"--format={form}", "--overwrite"]
        assert main(words) == 1
        assert re.search(reason, capsys.readouterr().err), target
    assert (tmp_path / "notes.txt").read_text() == "mine" and (programs / "notes.txt").exists()


@pytest.mark.parametrize("checkpoint", ["tiny_blip", "tiny_chat"])
def test_kinds_without_programs_are_told_before_weights_are_read(
    checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("vlt.export.trained_model", lambda *_: pytest.fail("work was done"))
    config = common.base()
    config.model.update(checkpoint=checkpoint, size=checkpoint, frames=4)
    save_run(tmp_path / "run", config)
    words = [f"--workdir={tmp_path / 'run'}", str(tmp_path / "programs"), "--format=stablehlo"]
    assert main(words) == 1
    kind = {"tiny_blip": "captioner", "tiny_chat": "chat"}[checkpoint]
    assert f"this run's model is of kind {kind}" in capsys.readouterr().err


def embeddings(model):
    return model.encode_video(VIDEO), model.encode_text(TEXTS)


@pytest.mark.slow
def test_merged_methods_are_in_the_weights(tempme, tmp_path):
    """How frames are averaged, and the merging of tokens, must be exported too."""
    export(tempme, tmp_path / "whole", "orbax")
    assert main(["--workdir", str(tempme), str(tmp_path / "merged"), "--merge"]) == 0
    whole, merged = vlt.load(tmp_path / "whole"), vlt.load(tmp_path / "merged")
    for one, other in zip(embeddings(whole), embeddings(merged), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert set(whole.config.methods) == {"lora", "tempme"}
    assert merged.config.methods == {"tempme": whole.config.methods["tempme"]}
    assert (merged.config.frames, merged.config.frame_norm) == (4, True)
    assert "lora_a" not in str(jax.tree.structure(merged.params))
    assert "clip_position" in merged.params["visual"]["blocks_3"]
    base = vlt.load("tiny_clip")
    assert np.abs(base.encode_text(TEXTS) - merged.encode_text(TEXTS)).max() > 0.01
    assert "merged: lora, tempme; left: tempme" in (tmp_path / "merged/report.txt").read_text()


@pytest.mark.slow
def test_merged_programs_and_weights(tempme, tmp_path):
    export(tempme, tmp_path / "programs", "stablehlo", merged=True)
    export(tempme, tmp_path / "model.safetensors", "safetensors", merged=True)
    model = trained_model(tempme)
    for name, inputs in (("video", VIDEO), ("text", np.zeros((3, 16), np.int32))):
        encode = jax.jit(partial(model.module.apply, method=f"encode_{name}"))
        expected = encode({"params": model.params}, inputs)[0]
        program = jax_export.deserialize((tmp_path / f"programs/{name}.stablehlo").read_bytes())
        np.testing.assert_allclose(program.call(inputs), expected, atol=2e-5)
        assert "lora" not in program.mlir_module()
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert not [name for name in file.keys() if "lora" in name]  # noqa: SIM118
        assert list(json.loads(file.metadata()["vlt"])["methods"]) == ["tempme"]


def rising(x):
    return np.linspace(0, 4, x.size, dtype=np.float32)


@pytest.mark.slow
def test_learned_rates_become_counts(tmp_path):
    learned = {"kept": None, "merged": None, "granularity": 1}
    run(tmp_path / "run", ".*/diffrate/.*", rising, diffrate=learned)
    export(tmp_path / "run", tmp_path / "whole", "orbax")
    export(tmp_path / "run", tmp_path / "merged", "orbax", merged=True)
    whole, merged = vlt.load(tmp_path / "whole"), vlt.load(tmp_path / "merged")
    counts = merged.config.methods["diffrate"]
    assert len(counts["kept"]) == len(counts["merged"]) == 4
    assert 1 < counts["merged"][-1] < 16
    assert "diffrate" not in str(jax.tree.structure(merged.params))
    np.testing.assert_allclose(merged.encode_video(VIDEO), whole.encode_video(VIDEO), atol=2e-5)


HEADS = {"visual.heads": 3, "text.heads": 3}
PUBLISHED = "transformer.resblocks.1.attn."


def published(folder, family=None):
    """The tensors of a model folder under their published names."""
    file = folder.with_suffix(".safetensors")
    reverse(folder, file, family)
    return safetensors.numpy.load_file(file)


@pytest.mark.slow
def test_merged_clip_goes_back_to_its_published_names(tmp_path):
    tokenizer = resolve("tiny_clip") / "tokenizer"
    reverse(resolve("tiny_clip"), tmp_path / "clip.safetensors", "openai")
    convert(tmp_path / "clip.safetensors", tmp_path / "base", "openai", HEADS, str(tokenizer))
    run(tmp_path / "run", ".*/lora_b", jitter, str(tmp_path / "base"), lora={"rank": 2})
    export(tmp_path / "run", tmp_path / "whole", "orbax")
    export(tmp_path / "run", tmp_path / "merged", "orbax", merged=True)
    with pytest.raises(ConversionError, match="no place in layout openai"):
        published(tmp_path / "whole")
    clip, merged = published(tmp_path / "base"), published(tmp_path / "merged")
    whole = published(tmp_path / "whole", "tempme")
    assert clip.keys() == merged.keys()
    a, b = (whole[f"clip.{PUBLISHED}TVPt_LoRA_{side}"] for side in "ab")
    weight = f"{PUBLISHED}in_proj_weight"
    np.testing.assert_allclose(merged[weight], clip[weight] + b @ a, atol=1e-6)

    # LoRA's tensors were in the file that this one was converted from.
    convert(tmp_path / "whole.safetensors", tmp_path / "tempme", None, HEADS, str(tokenizer))
    run(tmp_path / "tuned", "logit_scale", jitter, str(tmp_path / "tempme"))
    export(tmp_path / "tuned", tmp_path / "remerged", "orbax", merged=True)
    again = published(tmp_path / "remerged")
    assert again.keys() == {f"clip.{name}" for name in clip}
    np.testing.assert_allclose(again[f"clip.{weight}"], merged[weight], atol=1e-6)


def test_existing_target_needs_overwrite(workdir, tmp_path, monkeypatch):
    model = trained_model(workdir)
    with monkeypatch.context() as patched:
        patched.setattr("vlt.export.trained_model", lambda *_: model)
        export(workdir, tmp_path / "model", "orbax")
        with pytest.raises(ModelFolderError, match="--overwrite"):
            export(workdir, tmp_path / "model", "orbax")
        export(workdir, tmp_path / "model", "orbax", overwrite=True)
    with pytest.raises(SystemExit, match="config.json does not exist"):
        main(["--workdir", str(tmp_path), str(tmp_path / "x")])


def test_run_without_a_checkpoint_is_refused(workdir, tmp_path, capsys):
    from vlt.configuration import load_saved

    config = load_saved(workdir)
    config.train.steps = 1
    save_run(tmp_path, config)
    assert main(["--workdir", str(tmp_path), str(tmp_path / "x")]) == 1
    assert "no complete checkpoint" in capsys.readouterr().err
