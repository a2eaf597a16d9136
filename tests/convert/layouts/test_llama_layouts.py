"""LLaMA in transformers' and Meta's layouts, read as one part and checked before anything else."""

import json
import random

import numpy as np
import pytest
import torch
from chat_files import chosen, golden, llama_folder, same

from vlt.convert.chat.parts import read_part
from vlt.convert.errors import ConversionError
from vlt.convert.layouts.llama import (
    huggingface_spec,
    inferred_spec,
    llama_json,
    llama_rules,
    meta_rules,
    meta_spec,
)
from vlt.convert.tables.table import to_tensors
from vlt.models.spec import LlamaSpec

SPEC = LlamaSpec(2048, 518, 64, 3, 4, 176)


@pytest.fixture(scope="module")
def tokenizer(shared):
    return shared / "golden/chat/tokenizer"


@pytest.fixture(scope="module")
def llm(shared):
    return chosen(golden(shared, "llava"), r"model\.(?!mm)|lm_head")


def values(part):
    return {path: leaf.values() for path, leaf in part.leaves.items()}


def meta_folder(folder, llm, shards=2):
    """Writes the same weights as Meta published LLaMA-13B: shards, query rows in its own order."""
    folder.mkdir()
    rules = llama_rules()
    leaves = {}
    for rule in rules:
        for name, tensor in llm.items():
            if match := rule.pattern.fullmatch(name):
                number = match[1] if match.re.groups else ""
                path = rule.targets[0].replace("{i}", number)
                leaves[path] = rule.transform.split(tensor)[0]
    whole, left = to_tensors(meta_rules(4), leaves)
    assert not left
    whole["rope.freqs"] = np.ones(8, np.float32)
    for shard in range(shards):
        held = {}
        for name, tensor in whole.items():
            last = name.split(".")[-2]
            if "norm" in name or last == "rope" or tensor.ndim == 1:
                held[name] = torch.tensor(tensor)
                continue
            axis = 1 if last in ("wo", "w2", "tok_embeddings") else 0
            part = np.array_split(tensor, shards, axis)[shard]
            held[name] = torch.tensor(np.ascontiguousarray(part))
        torch.save(held, folder / f"consolidated.{shard:02}.pth")
    sizes = {"dim": 64, "n_layers": 3, "n_heads": 4, "norm_eps": 1e-6, "multiple_of": 16}
    (folder / "params.json").write_text(json.dumps(sizes | {"vocab_size": -1}))
    return folder


def test_meta_and_transformers_have_the_same_weights(llm, tokenizer, tmp_path):
    hf = read_part("llm", llama_folder(tmp_path / "hf", llm, tokenizer))
    meta = read_part("llm", meta_folder(tmp_path / "meta", llm))
    same(values(meta), values(hf))
    assert meta.dropped == ["rope.freqs"]
    assert meta_spec(meta.path, meta.params, meta.leaves) == SPEC
    assert huggingface_spec(hf.path, hf.config, hf.leaves) == SPEC


def test_metas_rows_are_pairs_of_neighbours(llm):
    """Row j of a head is Meta's row 2j, and row d / 2 + j is its row 2j + 1 (d = 16)."""
    query = next(rule for rule in meta_rules(4) if "wq" in rule.source)
    rows = np.arange(64)[:, None] * np.ones((1, 64))
    kernel = query.transform.split(rows)[0]
    assert kernel[0, 16:32].tolist() == [*range(16, 32, 2), *range(17, 32, 2)]
    np.testing.assert_array_equal(query.transform.join([kernel]), rows)


def test_shards_of_meta_that_do_not_fit(llm, tmp_path):
    folder = meta_folder(tmp_path / "meta", llm)
    second = folder / "consolidated.01.pth"
    moved = second.rename(folder / "consolidated.02.pth")
    with pytest.raises(ConversionError, match="consolidated.02.pth; .* without a gap"):
        read_part("llm", folder)
    moved.unlink()
    with pytest.raises(ConversionError, match="1 shard makes embeddings of 32, params.json says"):
        read_part("llm", folder)
    held = torch.load(folder / "consolidated.00.pth")
    torch.save(held | {"norm.weight": torch.zeros(64)}, second)
    with pytest.raises(ConversionError, match="norm.weight: is not the same in all shards"):
        read_part("llm", folder)
    held["output.weight"] = torch.zeros(3, 3)
    torch.save(held, second)
    with pytest.raises(ConversionError, match=r"output.weight: parts of \[259, 64\], \[3, 3\] do"):
        read_part("llm", folder)
    del held["output.weight"]
    torch.save(held, second)
    with pytest.raises(ConversionError, match="01.pth: output.weight is not in all shards"):
        read_part("llm", folder)


def test_configs_of_other_models(llm):
    config = llama_json(SPEC)
    leaves = {"text/token_embedding/embedding": np.zeros((518, 64))}
    assert huggingface_spec("x", config, leaves) == SPEC
    for changes, message in (
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, with 4 heads"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', a LLaMA's is 'silu'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_type is 'linear'"),
        ({"rope_scaling": 3}, "rope_parameters and rope_scaling must be objects"),
        ({"rope_theta": "x"}, "rope_theta is 'x'"),
        ({"hidden_size": 2.5}, "hidden_size must be a whole number .* got 2.5"),
        ({"rms_norm_eps": None}, "rms_norm_eps must be >= 0 and < 1, got None"),
    ):
        with pytest.raises(ConversionError, match=message):
            huggingface_spec("x", config | changes, leaves)
    with pytest.raises(ConversionError, match="tensors can't tell a LLaMA's epsilon"):
        inferred_spec(leaves, {}, [])


def test_what_a_config_may_leave_out():
    """LLaVA-1.5 on the hub states only what differs from transformers' defaults."""
    config = {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
    leaves = {"text/token_embedding/embedding": np.zeros((5, 1))}
    found = huggingface_spec("x", config, leaves)
    assert found == LlamaSpec(4096, 5, 4096, 32, 32, 11008, norm_eps=1e-5)
    assert huggingface_spec("x", {"model_type": "llama"}, leaves).norm_eps == 1e-6
    sizes = {"hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 40}
    assert huggingface_spec("x", config | sizes, leaves).heads == 40
    with pytest.raises(ConversionError, match="num_attention_heads must be .* got None"):
        huggingface_spec("x", config | {"model_type": "llava"}, leaves)


def test_an_index_that_leads_elsewhere(llm, tokenizer, tmp_path):
    folder = llama_folder(tmp_path / "hf", llm, tokenizer)
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(llm, "../outside.safetensors")}))
    with pytest.raises(ConversionError, match="is outside its folder"):
        read_part("llm", folder)
    (tmp_path / "outside.safetensors").rename(folder / "a.safetensors")
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*llm, "more"], "a.safetensors")}))
    with pytest.raises(ConversionError, match="its shards lack more"):
        read_part("llm", folder)


def test_a_damaged_shard_is_read_or_a_sentence(llm, tmp_path):
    """With any bytes replaced: an array of the right size, or a ConversionError."""
    folder = meta_folder(tmp_path / "meta", llm, shards=1)
    file = folder / "consolidated.00.pth"
    data = file.read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(40):
        damaged = bytearray(data)
        # Headers and the pickle, where most of what is checked stands, are at the ends.
        for _ in range(4):
            place = draw.choice([draw.randrange(4000), -1 - draw.randrange(4000)])
            damaged[place] = draw.randrange(256)
        file.write_bytes(damaged[: draw.choice([len(data), draw.randrange(len(data))])])
        try:
            part = read_part("llm", folder)
            assert all(leaf.values().shape == leaf.shape for leaf in part.leaves.values())
        except ConversionError as error:
            assert str(folder) in str(error)
            refused += 1
    assert refused > 20
