"""PE-Core and EVA02-CLIP compute what the published ones do: float32, block by block."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from vlt.convert.files.arrays import Tensors
from vlt.convert.layouts.eva02 import EVA02
from vlt.convert.layouts.families import family_of
from vlt.convert.layouts.pe import PE
from vlt.convert.tables.family import Family
from vlt.convert.tables.sizes import infer_spec, infer_vision
from vlt.convert.tables.table import to_leaves, to_tensors
from vlt.models.dual_encoder import DualEncoder
from vlt.models.interpolation import resize_positions
from vlt.models.rotary import Rotary, frame_places
from vlt.models.spec import DualEncoderSpec, with_visual
from vlt.models.vit import VisionTransformer

# Tolerances where the goldens' tokens reach 6 and projected embeddings 4.
TRACE, POOLED, UNIT, ANGLES, LOSS, GRADIENT = 1e-4, 5e-5, 5e-6, 1e-6, 1e-5, 1e-3
HEADS = {"visual.heads": 4, "text.heads": 3}


def close(ours: Any, theirs: np.ndarray, atol: float, name: str = "") -> None:
    ours = np.asarray(ours).reshape(theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=name)


def numbers(shared: Path, name: str) -> dict[str, np.ndarray]:
    """The golden numbers; pictures become videos of one frame, [b, t, H, W, 3]."""
    golden = dict(np.load(shared / f"golden/pe_core/{name}.npz"))
    for key in ("video", "image", "image_resized_input", "image_oblong_input"):
        if key in golden:
            picture = np.moveaxis(golden[key], -3, -1)
            golden[key] = picture if picture.ndim == 5 else picture[:, None]
    return golden


def state(shared: Path, name: str) -> Tensors:
    return safetensors.numpy.load_file(shared / f"golden/pe_core/{name}.safetensors")


def leaves_of(family: Family, tensors: Tensors) -> Tensors:
    """The leaves of all tensors, whose names must tell the family."""
    assert family_of([*tensors], "file") is family
    placed = to_leaves(family.rules, tensors, family.canonical, family.dropped, family.left_out)
    assert not placed.unexpected and not placed.wrong_shape
    return placed.leaves


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    return numbers(shared, "pe_core_small")


@pytest.fixture(scope="module")
def leaves(shared: Path) -> Tensors:
    return leaves_of(PE, state(shared, "pe_core_small"))


@pytest.fixture(scope="module")
def spec(leaves: Tensors) -> DualEncoderSpec:
    return infer_spec(leaves, PE, HEADS)[0]


@pytest.fixture(scope="module")
def ours(golden, leaves, spec) -> dict[str, Any]:
    """Everything from one program: pairs of pictures and texts with their loss, and videos."""
    model = DualEncoder(spec, frame_norm=True)

    def loss(params):
        out = model.apply({"params": params}, golden["image"], golden["text_ids"], capture=True)
        logits = jnp.exp(params["logit_scale"]) * out["video"] @ out["text"].T
        own = jnp.arange(len(logits))
        both = [-jax.nn.log_softmax(x)[own, own].mean() for x in (logits, logits.T)]
        return sum(both) / 2, {**out, "logits": logits}

    @jax.jit
    def run(params):
        (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        variables = {"params": params}
        published = model.clone(frame_norm=False, renormalise=False)
        video, _ = published.apply(variables, golden["video"], method="encode_video")
        plain, raw = model.clone(frame_norm=False).apply(
            variables, golden["video"], method="encode_video"
        )
        unit, _ = model.apply(variables, golden["video"], method="encode_video")
        videos = {"published": video, "plain": plain, "raw": raw, "video": unit}
        return {**out, **videos, "loss": value, "gradient": gradient}

    params = traverse_util.unflatten_dict(leaves, sep="/")
    with jax.default_matmul_precision("highest"):
        return jax.device_get(run(params))


def test_pe_core_block_by_block(golden, ours):
    seen, read = ours["visual_out"], ours["text_out"]
    close(seen["stem"].x, golden["trace/vision_ln_pre"], TRACE)
    for layer in range(3):
        tokens = seen[f"block_{layer}"]
        close(tokens.x, golden[f"trace/vision_block{layer}"], TRACE, f"block {layer}")
        close(read[f"block_{layer}"].x, golden[f"trace/text_block{layer}"], TRACE, f"text {layer}")
    close(seen["block_2"].x[0], golden["features_last_no_norm"][0], TRACE)
    close(seen["frames"], golden["image_embed"], UNIT)
    close(read["text_features"], golden["text_pooled"], POOLED)
    close(ours["text"], golden["text_embed"], UNIT)
    close(ours["logits"], golden["logits_per_image"], 10 * POOLED)
    np.testing.assert_allclose(ours["loss"], golden["loss_clip"], rtol=LOSS)


def test_pe_core_videos_by_both_conventions(golden, ours):
    """Frames are embedded one by one; a video is the mean of their embeddings or of their unit
    vectors, and this mean is made a unit vector or not."""
    close(ours["raw"]["frames"], golden["frame_pooled"], POOLED)
    close(ours["raw"]["video_features"], golden["video_embed_plain"], POOLED)
    close(ours["published"], golden["video_embed_normalize"], UNIT)
    unit = golden["video_embed_normalize"]
    close(ours["video"], unit / np.linalg.norm(unit, axis=-1, keepdims=True), 2 * UNIT)


def test_pe_core_gradients(golden, ours):
    """The norm of every tensor's gradient, and the whole gradient of small tensors."""
    gradient = traverse_util.flatten_dict(ours["gradient"], sep="/")
    found, left = to_tensors(PE.rules, gradient)
    assert not left
    for name, tensor in found.items():
        if f"gradnorm/{name}" in golden:
            norm = golden[f"gradnorm/{name}"]
            np.testing.assert_allclose(np.linalg.norm(tensor), norm, rtol=GRADIENT, err_msg=name)
        if f"grad/{name}" in golden:
            theirs = golden[f"grad/{name}"]
            close(tensor, theirs, GRADIENT * np.abs(theirs).max(), name)


def test_places_turn_as_published(golden):
    rotary = Rotary(neighbours=True)
    for cls, rows, columns, key in ((1, 4, 4, "rope_angles"), (1, 6, 7, "rope_angles_oblong")):
        places = frame_places("pe", rows, columns, cls)
        angles = (places[..., None] * 10000.0 ** (-np.arange(4) / 4)).reshape(len(places), -1)
        close(np.repeat(angles, 2, axis=-1), golden[key], ANGLES * max(rows, columns))
    places = frame_places("pe", 4, 4, 1)[None, None]
    for name in ("q", "k"):
        turned = rotary(golden[f"block0_{name}"][:, None], places)
        close(turned, golden[f"block0_{name}_rotated"], UNIT)


def test_pe_core_at_other_sizes(golden, leaves, spec):
    """Positions are resized bilinearly to the grid's places, when converted or as frames come."""
    table = golden["pos_table"]
    close(resize_positions(table, 7, 1, "bilinear"), golden["pos_resized_bilinear"], UNIT)
    larger = with_visual(spec, image_size=56)
    changed = leaves | {"visual/position_embedding": resize_positions(table, 7, 1, "bilinear")}
    params = traverse_util.unflatten_dict(changed, sep="/")["visual"]
    tower = VisionTransformer(larger.visual, spec.embed_dim)
    with jax.default_matmul_precision("highest"):
        found, _ = jax.jit(tower.apply)({"params": params}, golden["image_resized_input"])
    close(found, golden["image_resized_pooled"], POOLED)
    params = traverse_util.unflatten_dict(leaves, sep="/")["visual"]
    tower = VisionTransformer(spec.visual, spec.embed_dim)
    with jax.default_matmul_precision("highest"):
        found, _ = jax.jit(tower.apply)({"params": params}, golden["image_oblong_input"])
    close(found, golden["image_oblong_pooled"], POOLED)
    with pytest.raises(ValueError, match=r"shape \(7, 56, 3\), but the tower takes \(32, 32, 3\)"):
        tower.apply({"params": params}, np.zeros((1, 1, 7, 56, 3), np.float32))


def test_eva02_block_by_block(shared: Path):
    golden, tensors = numbers(shared, "eva02_small"), state(shared, "eva02_small")
    leaves = leaves_of(EVA02, tensors)
    spec = infer_vision(leaves, EVA02, HEADS, [])
    params = traverse_util.unflatten_dict(leaves, sep="/")["visual"]
    tower = VisionTransformer(spec, 32, cls_only=False)

    @jax.jit
    def run(params):
        def loss(params):
            pooled, out = tower.apply({"params": params}, golden["image"], capture=True)
            return (pooled * golden["loss_weights"]).mean(), (pooled, out)

        return jax.value_and_grad(loss, has_aux=True)(params)

    with jax.default_matmul_precision("highest"):
        (loss, (pooled, out)), gradient = jax.device_get(run(params))
    for layer in range(3):
        close(out[f"block_{layer}"].x, golden[f"trace/block{layer}"], TRACE, f"block {layer}")
    close(pooled, golden["image_pooled"], POOLED)
    np.testing.assert_allclose(loss, golden["loss"], rtol=LOSS)
    flat = traverse_util.flatten_dict({"visual": gradient}, sep="/")
    found, left = to_tensors(EVA02.rules, flat)
    assert not left
    for name, tensor in found.items():
        theirs = golden[f"gradnorm/{name}"]
        np.testing.assert_allclose(np.linalg.norm(tensor), theirs, rtol=GRADIENT, err_msg=name)
    places = frame_places("eva", 4, 4, 0)
    angles = (places[..., None] * 10000.0 ** (-np.arange(4) / 4)).reshape(16, -1)
    close(np.cos(np.repeat(angles, 2, axis=-1)), golden["rope_cos"], ANGLES)
    close(np.sin(np.repeat(angles, 2, axis=-1)), golden["rope_sin"], ANGLES)
