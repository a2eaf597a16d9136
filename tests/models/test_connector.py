"""The Q-Former against transformers' torch model, layer by layer; and a connector's refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from golden_chat import Tensors, qformer
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from vlt.models.connector import Connector, QFormer
from vlt.models.spec import ChatSpec, LlamaSpec, QFormerSpec, VisionSpec

SPEC = QFormerSpec(5, 24, 4, 3, 40, 16, vocab=30, context=12, norm_eps=1e-5)
CHAT = ChatSpec(VisionSpec(16, 8, 16, 2, 2, 32), LlamaSpec(16, 20, 8, 1, 2, 16))
RENAMED = {
    ".attention.attention.": ".attention.self.",
    ".crossattention.attention.": ".crossattention.self.",
    "embeddings.layernorm": "embeddings.LayerNorm",
}


@pytest.fixture(scope="module")
def peer():
    torch.manual_seed(0)
    config = InstructBlipQFormerConfig(
        vocab_size=SPEC.vocab,
        hidden_size=SPEC.width,
        num_hidden_layers=SPEC.layers,
        num_attention_heads=SPEC.heads,
        intermediate_size=SPEC.mlp_width,
        max_position_embeddings=SPEC.context,
        layer_norm_eps=SPEC.norm_eps,
        encoder_hidden_size=SPEC.source_width,
        initializer_range=0.3,
    )
    model = InstructBlipQFormerModel(config).eval()
    for name, weight in model.named_parameters():
        if "norm" in name.lower():
            weight.data.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def params(peer):
    tensors = {}
    for name, weight in peer.state_dict().items():
        for published, other in RENAMED.items():
            name = name.replace(published, other)
        tensors[name] = weight.numpy()
    return qformer(Tensors(tensors), SPEC)


def test_epsilons_are_berts_and_torchs_unless_stated():
    spec = QFormerSpec(5, 24, 4, 3, 40, 16)
    assert spec.norm_eps == InstructBlipQFormerConfig().layer_norm_eps
    assert spec.source_norm_eps == torch.nn.LayerNorm(1).eps


def test_states_are_those_of_transformers_after_each_layer(peer, params):
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(SPEC.queries, SPEC.width)).astype(np.float32)
    source = rng.normal(size=(2, 7, SPEC.source_width)).astype(np.float32)
    ids = np.array([[2, 7, 8, 3], [2, 9, 3, 0]])
    read = np.pad(ids > 0, ((0, 0), (SPEC.queries, 0)), constant_values=True)
    with torch.inference_mode():
        theirs = peer(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(read.astype(np.int64)),
            query_embeds=torch.from_numpy(queries[None].repeat(2, 0)),
            encoder_hidden_states=torch.from_numpy(source),
            output_hidden_states=True,
        )
    states = theirs.hidden_states
    assert len(states) == SPEC.layers + 1
    for layers in range(SPEC.layers + 1):
        taken = {name: leaf for name, leaf in params.items() if not name.startswith("blocks")}
        taken |= {f"blocks_{i}": params[f"blocks_{i}"] for i in range(layers)}
        mine = QFormer(dataclasses.replace(SPEC, layers=layers)).apply(
            {"params": taken}, queries, source, ids
        )
        np.testing.assert_allclose(mine[read], states[layers].numpy()[read], atol=2e-5)


def test_queries_alone_have_no_leaves_of_texts():
    spec = dataclasses.replace(SPEC, vocab=0, context=0)
    shapes = jax.eval_shape(
        QFormer(spec).init, jax.random.key(0), jnp.zeros((5, 24)), jnp.zeros((1, 7, 16))
    )["params"]
    assert shapes.keys() == {"embedding_norm", *(f"blocks_{i}" for i in range(4))}
    assert not {"mlp", "mlp_norm"} & shapes["blocks_0"].keys()
    assert "cross_attention" not in shapes["blocks_1"]


def shapes_of(spec: ChatSpec, instruction=None):
    inputs = (jnp.zeros((1, 4, 16)), instruction)
    return jax.eval_shape(Connector(spec).init_with_output, jax.random.key(0), *inputs)


def test_an_mlp_is_of_two_layers():
    (tokens, _), variables = shapes_of(dataclasses.replace(CHAT, connector="mlp"))
    assert tokens.shape == (1, 4, 8)
    assert variables["params"]["fc1"]["kernel"].shape == (16, 8)
    assert variables["params"]["fc2"]["kernel"].shape == (8, 8)


def test_an_instruction_goes_where_it_is_read():
    with pytest.raises(ValueError, match="connector .linear. does not read; it stands in the"):
        shapes_of(CHAT, jnp.ones((1, 3), int))
    instructed = dataclasses.replace(CHAT, connector="qformer", qformer=SPEC)
    with pytest.raises(ValueError, match="reads an instruction beside each video: give its ids"):
        shapes_of(instructed)
    with pytest.raises(ValueError, match="instruction of 13 tokens; the Q-Former has 12 positions"):
        shapes_of(instructed, jnp.ones((1, 13), int))
    (tokens, _), _ = shapes_of(instructed, jnp.ones((1, 12), int))
    assert tokens.shape == (1, SPEC.queries, 8)
