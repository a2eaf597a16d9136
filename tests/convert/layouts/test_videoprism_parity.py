"""VideoPrism computes what its authors' code does: float32, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import videoprism_files
from flax import traverse_util

from vlt.convert import convert
from vlt.convert.layouts.families import get_family
from vlt.convert.tables.sizes import heads_at
from vlt.convert.tables.stacked import stack
from vlt.convert.tables.table import to_tensors
from vlt.model_io.build import make_model
from vlt.model_io.folder import read_model_folder
from vlt.models.interpolation import sinusoid_halves
from vlt.models.vit import normalize
from vlt.tasks import losses

TRACE, POOLED, UNIT, TABLE, LOSS, GRADIENT = 1e-4, 2e-4, 2e-5, 1e-6, 1e-5, 2e-3


def close(ours, theirs, atol, name=""):
    ours = np.asarray(ours).reshape(theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def golden(shared):
    return videoprism_files.numbers(shared)


@pytest.fixture(scope="module")
def ours(shared, golden, tmp_path_factory):
    """Everything from one program, with the weights converted from the authors' .npz."""
    folder = tmp_path_factory.mktemp("videoprism")
    tokenizer = videoprism_files.tokenizer(folder / "tokenizer")
    convert(videoprism_files.npz(shared), folder / "model", tokenizer=tokenizer)
    config, params = read_model_folder(folder / "model")
    model = make_model(config.spec, {})

    def pooled(params, video, **options):
        found = model.apply({"params": params}, video, method="encode_video", **options)
        return found[1]["video_features"]

    def loss(params):
        inputs = golden["video"], golden["text_ids"]
        out = model.apply({"params": params}, *inputs, capture=True)
        # The golden loss is the mean of both directions, ours their sum.
        value = losses.contrastive(out["video"], out["text"], golden["loss_scale"]) / 2
        return value, out

    @jax.jit
    def run(params):
        (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        others = {t: pooled(params, golden[f"{t}/video"]) for t in ("t1", "t2", "t7")}
        absent = golden["frame_paddings"].astype(bool)
        others["absent"] = pooled(params, golden["video"], absent=absent)
        return out | {"loss": value, "gradient": gradient, "others": others}

    with jax.default_matmul_precision("highest"):
        return jax.device_get(run(params)) | {"spec": config.spec}


def test_video_tower_block_by_block(golden, ours):
    seen = ours["visual_out"]
    for layer in range(3):
        theirs = golden[f"trace/spatial_block{layer}"]
        close(seen[f"block_{layer}"].x[0, :2], theirs, TRACE, f"spatial {layer}")
    for layer in range(2):
        theirs = golden[f"trace/temporal_block{layer}"]
        close(seen[f"block_{3 + layer}"].x[0, :8], theirs, TRACE, f"temporal {layer}")
        together = seen[f"block_{5 + layer}"]
        theirs = golden[f"trace/auxiliary_block{layer}"]
        close(together.by_frame(together.x)[0], theirs, TRACE, f"auxiliary {layer}")
    close(seen["video_features"], golden["video_pooled"], POOLED)
    close(ours["video"], golden["video_embed"], UNIT)
    close(normalize(seen["each_frame"]), golden["frame_embed"], UNIT)
    close(ours["video"] @ ours["text"].T, golden["similarity"], UNIT)


def test_text_tower_block_by_block(golden, ours):
    read = ours["text_out"]
    words = np.pad(golden["text_ids"] != 0, ((0, 0), (0, 1)), constant_values=True)
    for layer in range(2):
        found = read[f"block_{layer}"].x[:, 0][words]
        close(found, golden[f"trace/text_block{layer}"][words], TRACE, f"text {layer}")
    close(read["text_features"], golden["text_pooled"], POOLED)
    close(ours["text"], golden["text_embed"], UNIT)
    close(sinusoid_halves(64, 32), golden["text_position_table"], TABLE)
    for other in ("with_hf_position_table", "without_attention_mask"):
        assert np.abs(ours["text"] - golden[f"hf/text_embed_{other}"]).max() > 100 * UNIT


def test_other_numbers_of_frames_and_absent_ones(golden, ours):
    for frames in ("t1", "t2", "t7"):
        close(ours["others"][frames], golden[f"{frames}/video_pooled"], POOLED, frames)
    theirs = golden["video_pooled_frame_paddings"]
    close(ours["others"]["absent"], theirs, POOLED)
    assert np.abs(theirs - golden["video_pooled"]).max() > 1


def test_the_loss_and_its_gradients(golden, ours):
    np.testing.assert_allclose(ours["loss"], golden["loss_clip"], rtol=LOSS)
    layout = get_family("videoprism").for_spec(ours["spec"])
    leaves = traverse_util.flatten_dict(ours["gradient"], sep="/")
    # Rules subtract one from scales, which must not change their gradients.
    leaves |= {path: leaf + 1 for path, leaf in leaves.items() if path.endswith("/scale")}
    tensors, left = to_tensors(layout.rules, leaves, lambda path: heads_at(ours["spec"], path))
    assert not left
    found = stack(layout.stacked, tensors)
    names = [name for name in golden if name.startswith("gradnorm/params/")]
    assert len(names) == len(found)
    for name in names:
        gradient = found[name.removeprefix("gradnorm/params/").replace("/", ".")]
        norm, whole = golden[name], golden.get(name.replace("gradnorm", "grad"))
        close(np.linalg.norm(gradient), norm, GRADIENT * max(norm, 1e-2), name)
        if whole is not None:
            close(gradient, whole, GRADIENT * max(np.abs(whole).max(), 1e-3), name)


def test_logits_are_capped_as_published(golden):
    raw = golden["spatial_block0_raw_logits"]
    assert np.abs(raw).max() > 30
    close(50 * jnp.tanh(raw / 50), golden["spatial_block0_capped_logits"], 1e-5)
