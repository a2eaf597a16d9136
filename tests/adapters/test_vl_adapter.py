"""VL-Adapter in BERT: where it acts, how it starts; and LoRA in the same layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_blip import SPEC, TEXT, dense, leaves, random_params

from vlt.adapters.lora import LoRA
from vlt.adapters.vl_adapter import POSITIONS, VLAdapter
from vlt.model_io.build import abstract_params, make_model
from vlt.models.bert import Bert
from vlt.models.captioner import Captioner
from vlt.models.sizes import SIZES

ONE_LAYER = dataclasses.replace(TEXT, layers=1)
IDS = jnp.asarray([[[28, 3, 9, 2, 0]], [[28, 7, 2, 0, 0]]])
SOURCE = np.random.default_rng(2).normal(size=(2, 6, 16)).astype(np.float32)
RULE = r"text/.*/vl_adapter/.*"


def hidden(params: dict, *methods, spec=ONE_LAYER, source=SOURCE) -> np.ndarray:
    """Hidden states of the decoder."""
    model = Bert(spec, methods)

    def run(params):
        return model.apply({"params": params}, IDS, source, causal=True)[0]

    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(run)(params))


def text_params(*methods) -> dict:
    spec = dataclasses.replace(SPEC, text=ONE_LAYER)
    params = random_params(Captioner(spec, methods))["text"]
    return {name: leaf for name, leaf in params.items() if name != "lm_head"}


def test_parameters_of_blip_base():
    model = Captioner(SIZES["blip_b16_captioner"], (VLAdapter(),))
    added = {k: v for k, v in leaves(abstract_params(model)).items() if "vl_adapter" in k}
    assert sum(x.size for x in added.values()) == 12 * 3 * (2 * 768 * 96 + 96 + 768)
    places = {path.split("vl_adapter")[0].removeprefix("text/blocks_7/") for path in added}
    assert {"attention/out/", "cross_attention/out/", "mlp/fc2/"} <= places
    assert all(path.startswith("text/blocks_") for path in added)


@pytest.mark.parametrize("position", POSITIONS)
def test_acts_on_the_layers_output(position):
    """Matches numpy in a layer whose weights are zero, so that its output is its bias."""
    method = VLAdapter((position,), 4)
    params = text_params(method)
    layer = params["blocks_0"][position]
    last = layer["fc2" if position == "mlp" else "out"]
    last["kernel"] = np.zeros_like(last["kernel"])
    leaf = last["vl_adapter"]
    y = last["bias"].astype(np.float64)
    z = dense(leaf["down"], y)
    gelu = z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    shifted = last["bias"] + dense(leaf["up"], gelu)
    assert leaf["down"]["kernel"].shape == (16, 4)
    ours = hidden(params, method)
    last["bias"] = shifted.astype(np.float32)
    np.testing.assert_allclose(ours, hidden(params), atol=2e-5)


def test_silent_adapters_are_the_bare_decoder():
    method = VLAdapter()
    params = text_params(method)
    bare = hidden(params)
    assert np.abs(hidden(params, method) - bare).max() > 0.1
    silent = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 0 if "'up'" in jax.tree_util.keystr(path) else x, params
    )
    np.testing.assert_array_equal(hidden(silent, method), bare)


def test_starts_near_the_bare_decoder():
    model = Bert(ONE_LAYER, (VLAdapter(),))
    fresh = jax.jit(lambda: model.init(jax.random.key(0), IDS, SOURCE))()["params"]
    adapter = fresh["blocks_0"]["mlp"]["fc2"]["vl_adapter"]
    assert adapter["down"]["kernel"].shape == (16, 2)
    assert 0 < np.abs(adapter["up"]["kernel"]).max() < 0.05
    assert not np.asarray(adapter["up"]["bias"]).any()
    assert 0 < np.abs(hidden(fresh, VLAdapter()) - hidden(fresh)).max() < 1e-2


def test_cross_attention_and_memory():
    """One word at a time, with the memory of earlier words, gives the same."""
    method = VLAdapter(reduction=4)
    params = text_params(method)
    model = Bert(ONE_LAYER, (method,))
    whole = hidden(params, method)

    def one_by_one(params):
        apply = model.bind({"params": params})
        _, memory = apply(jnp.zeros_like(IDS), SOURCE, causal=True)
        outs = []
        for i in range(IDS.shape[-1]):
            out, memory = apply(IDS[..., i : i + 1], causal=True, memory=memory, index=i)
            outs.append(out)
        return jnp.concatenate(outs, axis=2)

    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(jax.jit(one_by_one)(params), whole, atol=1e-5)


def test_every_leaf_gets_a_gradient():
    method = VLAdapter(reduction=4)
    params = text_params(method)
    model = Bert(ONE_LAYER, (method,))

    def score(params):
        return model.apply({"params": params}, IDS, SOURCE, causal=True)[0][..., :3].sum()

    found = leaves(jax.jit(jax.grad(score))(params))
    ours = [path for path in found if "vl_adapter" in path]
    assert len(ours) == 12
    for path in ours:
        assert np.abs(found[path]).max() > 1e-6, path


@pytest.mark.parametrize("share_a", [True, False])
def test_lora_in_bert_folds_into_the_weights(share_a):
    """Keys and values of a cross-attention may have another input width than its query."""
    wide = dataclasses.replace(ONE_LAYER, source_width=24)
    source = np.random.default_rng(3).normal(size=(2, 6, 24)).astype(np.float32)
    method = LoRA(2, share_a=share_a, towers=("text",))
    model = Bert(wide, (method,))
    shapes = jax.eval_shape(model.init, jax.random.key(0), IDS, source)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    crossing = leaves(params["blocks_0"]["cross_attention"])
    assert crossing["query/lora_a"].shape == (16, 2)
    assert crossing["lora_a" if share_a else "key/lora_a"].shape == (24, 2)
    served, merged = method.fold_for_inference(params)
    assert served is None and not any("lora" in path for path in leaves(merged))
    ours = hidden(params, method, spec=wide, source=source)
    np.testing.assert_allclose(hidden(merged, spec=wide, source=source), ours, atol=1e-5)
    assert np.abs(ours - hidden(params, spec=wide, source=source)).max() > 1e-2


def test_lora_stays_in_its_towers():
    tower = {
        towers: {path.split("/")[0] for path in leaves(abstract_params(
            Captioner(SPEC, (LoRA(2, towers=towers),))
        )) if "lora" in path}
        for towers in (("visual",), ("text",), ("visual", "text"))
    }  # fmt: skip
    assert tower == {(name,): {name} for name in ("visual", "text")} | {
        ("visual", "text"): {"visual", "text"}
    }


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (SPEC, {"positions": ("ffn",)}, "ffn; choose from attention, cross_attention"),
        (SPEC, {"reduction": 0}, "vl_adapter.reduction must be between 1 and .* 16, got 0"),
        (
            SIZES["tiny_clip"],
            {},
            "vl_adapter is in the layers of a BERT, and this .*which adapter is for",
        ),
    ],
)
def test_what_does_not_fit_is_refused(spec, options, message):
    with pytest.raises(ValueError, match=message):
        make_model(spec, {"vl_adapter": options})
