"""What is exported for transformers loads there and computes the same, or is refused by name."""

import dataclasses

import jax
import numpy as np
import pytest
import siglip_files
from test_export import TEMPME, TEXTS, jitter, run

import vlt
from vlt.convert import ConversionError, convert
from vlt.convert.plain import write_plain
from vlt.data.manifests.resources import resolve
from vlt.export import export, trained_model
from vlt.model_io.folder import read_model_config, read_model_folder
from vlt.training.checkpoints import TrainingCheckpoints

FRAMES = np.random.default_rng(0).integers(0, 255, (3, 1, 32, 32, 3), dtype=np.uint8)


def computed(folder, kind, ids, frames, model):
    """transformers' embeddings of frames and texts of these ids."""
    import torch

    theirs, loading = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    pixels = (frames[:, 0] / 255 - np.array(model.module.mean)) / np.array(model.module.std)
    pixels = torch.tensor(np.moveaxis(pixels, -1, 1), dtype=torch.float32)
    with torch.no_grad():
        out = theirs.eval()(input_ids=torch.tensor(ids).long(), pixel_values=pixels)
    return out.image_embeds.numpy(), out.text_embeds.numpy()


def close(workdir, folder, kind, frames=FRAMES, average=None):
    """Checks an export in transformers and converted back against the run's model."""
    from transformers import AutoTokenizer

    found = trained_model(workdir, average)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    context = found.module.spec.text.context
    ids = np.array(
        tokenizer(TEXTS, padding="max_length", max_length=context, truncation=True)["input_ids"]
    )
    theirs = computed(folder, kind, ids, frames, found)
    with jax.default_matmul_precision("highest"):
        variables = {"params": found.params}
        videos = found.module.apply(variables, frames, method="encode_video")[0]
        words = found.module.apply(variables, ids.astype(np.int32), method="encode_text")[0]
    np.testing.assert_allclose(theirs[0], videos, atol=2e-6)
    np.testing.assert_allclose(theirs[1], words, atol=2e-6)
    convert(folder, folder.parent / "again")
    again = vlt.load(folder.parent / "again")
    np.testing.assert_allclose(again.encode_text(TEXTS), words, atol=2e-6)


@pytest.mark.slow
def test_merged_lora_of_a_clip(tmp_path):
    transformers = pytest.importorskip("transformers")
    workdir = run(tmp_path / "run", ".*/lora_[ab]", jitter, lora={"rank": 4})
    with pytest.raises(
        ConversionError, match="the model has lora, .*: --merge folds lora; --format"
    ):
        export(workdir, tmp_path / "hf", "huggingface")
    assert not (tmp_path / "hf").exists()
    export(workdir, tmp_path / "hf", "huggingface", merged=True)
    close(workdir, tmp_path / "hf", transformers.CLIPModel)
    card = (tmp_path / "hf/README.md").read_text()
    for part in (
        "license: apache-2.0",
        "library_name: transformers",
        "Methods: lora",
        "## Metrics",
    ):
        assert part in card
    export(workdir, tmp_path / "hf", "huggingface", merged=True, overwrite=True)


@pytest.mark.slow
def test_the_mean_of_checkpoints_of_a_clip(tmp_path):
    """transformers computes what the mean of the weights does, and not what the last ones do."""
    transformers = pytest.importorskip("transformers")
    workdir = run(tmp_path / "run", "visual/blocks_3/mlp/.*|text/blocks_1/mlp/.*", jitter)
    checkpoints = TrainingCheckpoints(workdir, 3)
    first = checkpoints.load_part(3, "trained")
    checkpoints.save(5, {"trained": jax.tree.map(lambda x: 0.5 * x, first)}, {})
    checkpoints.close()
    export(workdir, tmp_path / "hf", "huggingface", average=(3, 5))
    close(workdir, tmp_path / "hf", transformers.CLIPModel, average=(3, 5))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        close(workdir, tmp_path / "hf", transformers.CLIPModel)


@pytest.mark.slow
def test_a_fully_tuned_siglip_lower_cases_in_transformers_too(shared, tmp_path):
    transformers = pytest.importorskip("transformers")
    source = siglip_files.folder(shared, tmp_path / "hf-base")
    convert(source, tmp_path / "base")
    from configs import common
    from vlt.configuration import save_run
    from vlt.model_io.loading import load_model
    from vlt.training.rules import partition

    config = common.base()
    config.model.update(checkpoint=str(tmp_path / "base"), context=64, frames=2)
    config.rules = ((".*", {"lr": 1.0}),)
    save_run(tmp_path / "run", config)
    leaves, _ = partition(load_model(config.model, 0).params, config.rules)
    checkpoints = TrainingCheckpoints(tmp_path / "run", 1)
    checkpoints.save(3, {"trained": jax.tree.map(lambda x: x * 1.01, leaves)}, {})
    checkpoints.close()
    export(tmp_path / "run", tmp_path / "hf", "huggingface")
    frames = np.random.default_rng(0).integers(0, 255, (3, 1, 56, 56, 3), dtype=np.uint8)
    close(tmp_path / "run", tmp_path / "hf", transformers.SiglipModel, frames)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    upper, lower = (tokenizer(text)["input_ids"] for text in ("A Dog", "a dog"))
    assert upper == lower and upper[-1] == 1 and tokenizer.padding_side == "right"
    assert read_model_config(tmp_path / "again").spec == read_model_config(tmp_path / "base").spec


@pytest.mark.slow
def test_what_cannot_be_plain_says_so(tmp_path):
    merging = run(
        tmp_path / "tempme", ".*/(lora_[ab]|clip_position)", jitter, lora={}, tempme=TEMPME
    )
    with pytest.raises(ConversionError, match="the model has tempme, which transformers' has not"):
        export(merging, tmp_path / "hf", "huggingface", merged=True)
    viclip, target = resolve("tiny_viclip"), tmp_path / "hf"
    config, params = read_model_folder(viclip)
    with pytest.raises(
        ConversionError, match="place for visual/temporal_embedding; --format=orbax"
    ):
        write_plain(target, config, params, viclip / "tokenizer", "", False)
    pe = dataclasses.replace(config.spec.visual, temporal_frames=0, activation="relu")
    odd = dataclasses.replace(config, spec=dataclasses.replace(config.spec, visual=pe))
    del params["visual"]["temporal_embedding"]
    with pytest.raises(ConversionError, match="activation relu: no name of transformers' is known"):
        write_plain(target, odd, params, viclip / "tokenizer", "", False)
    assert not target.exists()


@pytest.mark.slow
def test_a_blip_comes_back_as_it_was(tmp_path):
    source = resolve("tiny_blip")
    config, params = read_model_folder(source)
    write_plain(tmp_path / "hf", config, params, source / "tokenizer", "# card", False)
    assert (tmp_path / "hf/README.md").read_text() == "# card"
    convert(tmp_path / "hf", tmp_path / "again")
    spec, again = read_model_folder(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert spec.spec.visual.layers == config.spec.visual.layers
