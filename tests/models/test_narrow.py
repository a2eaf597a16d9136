"""A language model's weights in fewer bits: the error is bounded, and memory is halved."""

import functools
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import ROOT

import vlt
from vlt.model_io import needs as model_needs
from vlt.model_io.build import abstract_params, make_model
from vlt.model_io.folder import ModelConfig, write_model_folder
from vlt.model_io.loading import load_folder
from vlt.model_io.needs import needs
from vlt.models.layers import Dense
from vlt.models.narrow import SCALE, rounded
from vlt.models.sizes import SIZES
from vlt.pytrees.paths import by_path
from vlt.runtime import memory
from vlt.storage import trees
from vlt.storage.trees import load_shapes
from vlt.training.rules import RuleError, partition

sys.path.append(str(ROOT / "tests" / "models"))
from golden_chat import Golden

PIXELS = {"image_size": 56, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "bicubic"}
KERNEL = "text/blocks_0/mlp/gate/kernel"


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    """A small LLaVA."""
    golden = Golden(shared / "golden" / "chat", "llava")
    config = ModelConfig("llava", golden.spec, {}, PIXELS | {"crop": "none"}, frames=3)
    path = tmp_path_factory.mktemp("model") / "llava"
    write_model_folder(path, config, golden.plain(), shared / "golden" / "chat" / "tokenizer")
    return path


@pytest.mark.parametrize("rows", [1, 4, 12])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rounded_kernels_err_by_half_a_step_at_most(rows, dtype):
    kernel = np.array(jax.random.normal(jax.random.key(0), (48, 20)))
    kernel[:, 3] = 0
    kernel[:, 4] *= 1e4
    x = jax.random.normal(jax.random.key(1), (rows, 48), dtype)
    small, scale = rounded(kernel)
    layer = Dense(20, use_bias=False, dtype=dtype)
    found = jax.jit(layer.apply)({"params": {"kernel": small, SCALE: scale}}, x)
    assert found.dtype == dtype and small.dtype == np.int8 and small.min() >= -127
    exact = np.asarray(x, np.float64)
    bound = np.abs(exact).sum(1)[:, None] * scale / 2
    # Rounding of a sum of 48 products, in the type of activations.
    bound += 48 * float(jnp.finfo(dtype).eps) * (np.abs(exact) @ np.abs(kernel))
    error = np.abs(np.asarray(found, np.float64) - exact @ kernel)
    assert (error <= bound + 1e-30).all()
    assert (error[:, 3] == 0).all() and error.max() > 0


@functools.cache
def flat(path, **options):
    return by_path(load_folder(str(path), **options).params)


@pytest.mark.parametrize("weights", [pytest.param("bfloat16", marks=pytest.mark.slow), "int8"])
def test_what_is_loaded_is_the_language_model_in_fewer_bits(folder, weights, monkeypatch):
    stored = flat(folder)
    monkeypatch.setattr(trees, "_PIECE", 2**17)  # a few values at a time
    loaded = load_folder(str(folder), weights=weights)
    shapes, found = by_path(abstract_params(loaded.module)), by_path(loaded.params)
    assert {path: (x.shape, x.dtype) for path, x in found.items()} == {
        path: (x.shape, x.dtype) for path, x in shapes.items()
    }
    for path, leaf in stored.items():
        if not path.startswith("text/") or "norm" in path:
            np.testing.assert_array_equal(found[path], leaf)
        elif weights == "bfloat16" or "embedding" in path:
            np.testing.assert_array_equal(found[path], leaf.astype(ml_dtypes.bfloat16))
        else:
            scale = found[f"{path.rpartition('/')[0]}/{SCALE}"]
            assert (np.abs(found[path] * scale - leaf) <= scale * (0.5 + 1e-6)).all(), path
    assert found[KERNEL].dtype == (jnp.bfloat16 if weights == "bfloat16" else np.int8)


@pytest.mark.slow
def test_each_form_takes_half_the_memory_of_the_one_before():
    shapes = by_path(abstract_params(make_model(SIZES["llava_7b"], {})))
    held = [
        needs(shapes, SIZES["llava_7b"], 8, jnp.bfloat16, weights).weights
        for weights in ("", "bfloat16", "int8")
    ]
    others = 4 * sum(x.size for path, x in shapes.items() if not path.startswith("text/"))
    whole, half, quarter = (size - others for size in held)
    # RMSNorms stay as they are; int8 adds scales, and keeps words in bfloat16.
    assert 0.5 <= half / whole < 0.5001 and 0.5 < quarter / half < 0.512


def test_answers_are_close(folder):
    """Logits with int8 err by a hundredth of their spread, with bfloat16 by less."""
    loaded = [load_folder(str(folder), weights=weights) for weights in ("", "bfloat16", "int8")]

    def answer(model, ids):
        return model.decode(model.embed(ids)[:, None], jnp.arange(12)[None], whole=True)[0]

    ids = jnp.arange(3, 15)[None]
    exact, half, quarter = (
        jax.jit(functools.partial(each.module.apply, method=answer))({"params": each.params}, ids)
        for each in loaded
    )
    error = [float((found - exact).std() / exact.std()) for found in (half, quarter)]
    assert 0 < error[0] < 0.01 and error[0] < error[1] < 0.05


def test_what_cannot_be_is_a_sentence(folder):
    with pytest.raises(ValueError, match=r"unknown model.weights: 'int4'"):
        vlt.load(folder, weights="int4")
    with pytest.raises(ValueError, match="is for chat models; this is a dual_encoder"):
        vlt.load("tiny_clip", weights="int8")
    params = load_folder(str(folder), weights="int8").params
    with pytest.raises(RuleError, match="trains text/blocks_0/mlp/gate/kernel, which"):
        partition(params, ((r"text/.*gate/kernel", {"lr": 1.0}), (".*", "frozen")))


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(folder, monkeypatch):
    stored, spec = by_path(load_shapes(folder / "weights")), load_folder(str(folder)).module.spec

    def total(weights, frames=3):
        return needs(stored, spec, frames, jnp.float32, weights).total

    monkeypatch.setattr(trees, "load_arrays", None)  # fails if anything is read
    monkeypatch.setattr(model_needs, "PIECES", 0)  # else it outweighs so small a model
    monkeypatch.setattr(memory, "free_on_host", lambda: total("int8", 1))
    with pytest.raises(ValueError, match="what fits: weights='int8' and frames=1 ") as told:
        vlt.load(folder)
    assert f"{total('') / 1e9:.1f} GB" in str(told.value)
    monkeypatch.setattr(memory, "free_on_host", lambda: total("", 2))
    with pytest.raises(ValueError, match=r"what fits: frames=2 .* or weights='bfloat16'.* or "):
        vlt.load(folder)
    monkeypatch.setattr(memory, "free_on_host", lambda: 1000)
    with pytest.raises(ValueError, match="what fits: nothing: weights='int8' and one frame need"):
        vlt.load(folder)


def test_memory_that_is_there(tmp_path, monkeypatch):
    assert 2**20 < memory.free_on_host() < 2**50
    assert memory.free_on_device() is None
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.free_on_host() is None
    (tmp_path / "meminfo").write_text("MemTotal: 90 kB\nMemAvailable: 70 kB\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    for name, text in (
        ("max", "max"),
        ("current", "9000"),
        ("stat", "anon 1\ninactive_file 400\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.free_on_host() == 70 * 1024
    (tmp_path / "memory.max").write_text("10000\n")
    assert memory.free_on_host() == 1400
