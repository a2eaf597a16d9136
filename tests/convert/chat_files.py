"""Parts of the golden chat models, each in its own files, under its publisher's names."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from flax import traverse_util

from vlt.storage.trees import load_tree

Tensors = dict[str, np.ndarray]

# What the golden models' tensors cannot tell without a config.json beside them.
SETTINGS = {"text.norm_eps": 1e-6, "text.heads": 4, "visual.heads": 4, "qformer.heads": 4}


def golden(shared: Path, name: str) -> Tensors:
    return safetensors.numpy.load_file(shared / f"golden/chat/{name}_small.safetensors")


def chosen(tensors: Tensors, pattern: str, renamed: str = r"\g<0>") -> Tensors:
    """Tensors whose names begin with `pattern`, which `renamed` replaces."""
    held = [name for name in tensors if re.match(pattern, name)]
    found = {re.sub(f"^({pattern})", renamed, name): tensors[name] for name in held}
    assert found
    return found


def save(path: Path, tensors: Tensors) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file({n: np.ascontiguousarray(x) for n, x in tensors.items()}, path)
    return path


def llama_folder(
    folder: Path, tensors: Tensors, tokenizer: Path, file: str = "tokenizer.model", **config: object
) -> Path:
    """Writes a LLaMA of the golden models' sizes as transformers saves it."""
    save(folder / "model.safetensors", tensors)
    rows = tensors["model.embed_tokens.weight"].shape[0]
    sizes = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "vocab_size": rows,
    }
    (folder / "config.json").write_text(json.dumps(sizes | config))
    (folder / file).write_bytes((tokenizer / file).read_bytes())
    return folder


def leaves(folder: Path) -> Tensors:
    """A model folder's leaves, by path."""
    return dict(traverse_util.flatten_dict(load_tree(folder / "weights"), sep="/"))


def same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
