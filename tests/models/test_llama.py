"""LLaMA against transformers' torch model, layer by layer, and with a cache against without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.models.attention import causal_bias_behind
from vlt.models.llama import Llama
from vlt.models.spec import LlamaSpec
from vlt.models.tokens import KeysValues

SPEC = LlamaSpec(64, 50, 32, 3, 4, 48, norm_eps=1e-3)
IDS = np.random.default_rng(0).integers(3, 50, (2, 7))


def leaf(x) -> np.ndarray:
    return x.detach().numpy()


def of_torch(model) -> dict:
    """Our parameters of a torch LLaMA."""

    def dense(layer) -> dict:
        return {"kernel": leaf(layer.weight).T}

    def norm(layer) -> dict:
        return {"scale": leaf(layer.weight)}

    params = {
        "token_embedding": {"embedding": leaf(model.model.embed_tokens.weight)},
        "final_norm": norm(model.model.norm),
        "head": dense(model.lm_head),
    }
    for i, block in enumerate(model.model.layers):
        heads, mlp = block.self_attn, block.mlp
        params[f"blocks_{i}"] = {
            "norm1": norm(block.input_layernorm),
            "attention": {
                "query": dense(heads.q_proj),
                "key": dense(heads.k_proj),
                "value": dense(heads.v_proj),
                "out": dense(heads.o_proj),
            },
            "norm2": norm(block.post_attention_layernorm),
            "mlp": {
                "gate": dense(mlp.gate_proj),
                "fc1": dense(mlp.up_proj),
                "fc2": dense(mlp.down_proj),
            },
        }
    return params


@pytest.fixture(scope="module")
def torch_llama():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=SPEC.vocab,
        hidden_size=SPEC.width,
        intermediate_size=SPEC.mlp_width,
        num_hidden_layers=SPEC.layers,
        num_attention_heads=SPEC.heads,
        rms_norm_eps=SPEC.norm_eps,
        initializer_range=0.3,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.data.uniform_(0.5, 1.5)
    return model


def run(params, ids, *rest, **kwargs):
    """Logits [b, l, v] and the memory of what was read."""

    def call(model, ids, *rest, **kwargs):
        states, read = model(model.embed(ids)[:, None], *rest, **kwargs)
        return model.logits(states)[:, 0], read

    return Llama(SPEC).apply({"params": params}, ids, *rest, **kwargs, method=call)


def test_states_and_logits_are_those_of_transformers(torch_llama):
    import torch

    found = torch_llama(torch.tensor(IDS), output_hidden_states=True)
    params = of_torch(torch_llama)
    for layers in range(SPEC.layers):
        taken = {n: x for n, x in params.items() if n in ("token_embedding", "final_norm", "head")}
        taken |= {f"blocks_{i}": params[f"blocks_{i}"] for i in range(layers)}
        taken["final_norm"] = {"scale": np.ones(SPEC.width)}
        states = found.hidden_states[layers]
        expected = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + SPEC.norm_eps)
        part = Llama(LlamaSpec(64, 50, 32, layers, 4, 48, norm_eps=SPEC.norm_eps))
        mine, _ = part.apply(
            {"params": taken},
            taken["token_embedding"]["embedding"][IDS][:, None],
            np.arange(7)[None],
        )
        np.testing.assert_allclose(mine[:, 0], leaf(expected), atol=2e-5)
    logits, _ = run(params, IDS, np.arange(7)[None])
    np.testing.assert_allclose(logits, leaf(found.logits), atol=5e-5)


def test_padding_is_not_read_and_takes_no_place(torch_llama):
    params = of_torch(torch_llama)
    valid = np.ones((2, 10), bool)
    valid[0, [0, 1, 4]] = False  # before the text and within it
    valid[1, :3] = False
    ids = np.zeros((2, 10), int)
    ids[valid] = IDS.reshape(-1)
    places = np.maximum(valid.cumsum(1) - 1, 0)
    padded, _ = run(params, ids, places, valid)
    plain, _ = run(params, IDS, np.arange(7)[None])
    np.testing.assert_allclose(np.asarray(padded)[valid].reshape(plain.shape), plain, atol=5e-5)


def test_a_cache_gives_what_the_whole_text_gives(torch_llama):
    params = of_torch(torch_llama)
    whole, _ = run(params, IDS, np.arange(7)[None])
    first, read = run(params, IDS[:, :4], np.arange(4)[None], remember=True)

    def room(x):
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 5), (0, 0)), constant_values=9.0)

    cache = jax.tree.map(room, read)
    assert isinstance(cache[0], KeysValues)
    for index in (4, 5):
        ids = IDS[:, index : index + 1]
        given = dict(cache=cache, index=index, remember=True)
        logits, cache = run(params, ids, np.array([[index]]), **given)
        np.testing.assert_allclose(logits[:, 0], whole[:, index], atol=5e-5)
    assert cache[0].keys.shape[3] == 9
    np.testing.assert_allclose(first, whole[:, :4], atol=5e-5)


def test_tokens_behind_an_index_see_all_before_them():
    bias = np.asarray(causal_bias_behind(2, 2, 5))
    assert (bias == 0).tolist() == [[True, True, True, False, False], [True] * 4 + [False]]


def test_no_leaf_is_a_bias():
    ids = jnp.zeros((1, 1, 2, SPEC.width))
    shapes = jax.eval_shape(Llama(SPEC).init, jax.random.key(0), ids, jnp.zeros((1, 2), int))
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(shapes)}
    assert names and not [name for name in names if "bias" in name]
