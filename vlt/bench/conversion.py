"""`python -m vlt.bench.conversion`: peak memory of converting a 7B model.

Writes a LLaVA of random bfloat16 weights in shards of at most 10 GB, as on Hugging Face, to a
temporary folder, which needs room for 14 GB of shards and a model folder of the same size. Converts
it in a separate process.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from vlt.bench.door import count, tell
from vlt.convert.files.safetensors_writer import write_safetensors
from vlt.models.sizes import SIZES
from vlt.models.spec import LlamaSpec, VisionSpec

SHARD = 10**10  # bytes
HALF = np.dtype(ml_dtypes.bfloat16)
Shapes = dict[str, tuple[int, ...]]


def llama_shapes(spec: LlamaSpec) -> Shapes:
    """Names and shapes of a LLaMA's tensors in transformers."""
    shapes: Shapes = {"model.embed_tokens.weight": (spec.vocab, spec.width)}
    square, wide = (spec.width, spec.width), (spec.mlp_width, spec.width)
    for i in range(spec.layers):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": square for name in "qkvo"}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": wide for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = wide[::-1]
        shapes |= {
            f"{layer}.{name}_layernorm.weight": (spec.width,)
            for name in ("input", "post_attention")
        }
    return shapes | {
        "model.norm.weight": (spec.width,),
        "lm_head.weight": (spec.vocab, spec.width),
    }


def tower_shapes(spec: VisionSpec, width: int) -> Shapes:
    """LLaVA's names and shapes of the tensors of CLIP's tower and of the projector to `width`."""
    tower, d = "model.vision_tower.vision_tower.vision_model", spec.width
    shapes: Shapes = {
        f"{tower}.embeddings.class_embedding": (d,),
        f"{tower}.embeddings.patch_embedding.weight": (d, 3, spec.patch_size, spec.patch_size),
        f"{tower}.embeddings.position_embedding.weight": (spec.patches + 1, d),
    }
    dense = {f"self_attn.{name}_proj": (d, d) for name in ("q", "k", "v", "out")}
    dense |= {"mlp.fc1": (spec.mlp_width, d), "mlp.fc2": (d, spec.mlp_width)}
    norms = [f"{tower}.pre_layrnorm", f"{tower}.post_layernorm"]
    for i in range(spec.layers):
        layer = f"{tower}.encoder.layers.{i}"
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
        for name, shape in dense.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
    shapes |= {f"{name}.{leaf}": (d,) for name in norms for leaf in ("weight", "bias")}
    return shapes | {"model.mm_projector.weight": (width, d), "model.mm_projector.bias": (width,)}


def write_shards(folder: pathlib.Path, shapes: Shapes, spec: LlamaSpec) -> int:
    """Writes a Hugging Face folder of random numbers; returns the bytes of its largest shard."""
    shards: list[Shapes] = [{}]
    for name, shape in shapes.items():
        if shards[-1] and 2 * _size(shards[-1]) + 2 * int(np.prod(shape)) > SHARD:
            shards.append({})
        shards[-1][name] = shape
    placement: dict[str, str] = {}
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        entries = {name: (shape, HALF) for name, shape in shard.items()}
        write_safetensors(folder / file, entries, _values(shard))
        placement |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": placement}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "model_type": "llava",
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "rms_norm_eps": spec.norm_eps,
        "max_position_embeddings": spec.context,
        "vocab_size": spec.vocab,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return max(map(_bytes, shards))


def _size(shapes: Shapes) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _bytes(shapes: Shapes) -> int:
    return HALF.itemsize * _size(shapes)


def _values(shapes: Shapes) -> Iterator[np.ndarray]:
    noise = (0.02 * np.random.default_rng(0).standard_normal(2**24)).astype(HALF)
    for name, shape in shapes.items():
        ones = name.endswith("norm.weight")
        yield np.ones(shape, HALF) if ones else np.resize(noise, shape)


def peak(command: list[str]) -> tuple[int, float]:
    """Runs a command; returns its peak memory in bytes, and its seconds."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    spent = time.perf_counter() - start
    return 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, spent


def main() -> None:
    """Prints the peak memory, and how it compares with the largest shard."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.conversion", description=__doc__)
    parser.add_argument("tokenizer", help="a LLaMA's tokenizer.json or tokenizer.model")
    parser.add_argument("--layers", type=count, default=32)
    parser.add_argument("--width", type=count, default=4096, help="in heads of 128")
    parser.add_argument("--folder", help="where there is room")
    options = parser.parse_args()
    width = options.width
    spec = LlamaSpec(2048, 32003, width, options.layers, width // 128, 11008 * width // 4096)
    shapes = llama_shapes(spec) | tower_shapes(SIZES["clip_l14"].visual, width)
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        source = pathlib.Path(root, "source")
        source.mkdir()
        largest = write_shards(source, shapes, spec)
        command: list[Any] = [sys.executable, "-m", "vlt.convert", source, f"{root}/model"]
        memory, spent = peak([*map(str, command), f"--tokenizer={options.tokenizer}"])
    print(
        f"{_size(shapes):,} parameters: {memory / 1e9:.2f} GB at most, {memory / largest:.2f} "
        f"times the largest shard of {largest / 1e9:.2f} GB, in {spent:.0f} s"
    )


if __name__ == "__main__":
    tell(main)
