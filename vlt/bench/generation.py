"""`python -m vlt.bench.generation [--vision] [--json]`: beam search beside transformers' in torch.

Both caption the same tokens of the same videos with the same random weights, turn by turn, with
texts of the full length; with --vision from pixels too. transformers' BLIP runs in inference mode
with a thread for each core. Its texts are compared first.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import traverse_util
from transformers import BlipConfig, BlipForConditionalGeneration

from vlt.bench.forward import random_video
from vlt.bench.timing import ratio, turns
from vlt.convert.blip import BLIP_HF
from vlt.convert.huggingface_blip import blip_json
from vlt.convert.table import to_tensors
from vlt.models.build import init_params
from vlt.models.captioner import Captioner
from vlt.models.generation import Search, generate
from vlt.models.spec import SIZES, BlipSpec


def bench_generation(
    spec: BlipSpec, frames: int, batch: int, search: Search, rounds: int, vision: bool = False
) -> dict[str, Any]:
    """Medians over rounds of both sides' seconds a batch, and the median of the rounds' ratios.

    `same_texts` is the share of texts in which both agree to the last token.
    """
    model = Captioner(spec, frames=frames)
    params = jax.jit(lambda: init_params(model, jax.random.key(0)))()
    video = random_video(model, batch)
    tokens = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode_video")[0])
    source = jax.block_until_ready(tokens(params, video))
    prompt = jnp.ones((batch, 1), jnp.int32)
    peer = TorchCaptioner(model, params, search)
    states = torch.from_numpy(np.array(source))
    functions: list[Callable[[], Any]] = [
        lambda: generate(model, params, source, prompt, search),
        lambda: peer.generate(states),
    ]
    if vision:
        functions += [
            lambda: generate(model, params, tokens(params, video), prompt, search),
            lambda: peer.generate(peer.encode(video)),
        ]
    ours, theirs = (np.asarray(function()) for function in functions[:2])
    times = turns(*functions, rounds=rounds)
    seconds = np.median(times, axis=0).tolist()
    result = {
        "source_tokens": source.shape[1],
        "same_texts": float((ours == theirs).all(1).mean()),
        "search_s": seconds[0],
        "peer_search_s": seconds[1],
        "times_as_fast": ratio(times, 1, 0),
    }
    if vision:
        result |= {
            "with_vision_s": seconds[2],
            "peer_with_vision_s": seconds[3],
            "with_vision_times_as_fast": ratio(times, 3, 2),
        }
    return result


class TorchCaptioner:
    """transformers' BLIP with our weights."""

    def __init__(self, model: Captioner, params: Mapping[str, Any], search: Search) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        leaves = traverse_util.flatten_dict(jax.device_get(dict(params)), sep="/")
        tensors, _ = to_tensors(BLIP_HF.for_kind("captioner").rules, leaves)
        self._model = BlipForConditionalGeneration(BlipConfig(**blip_json(model.spec))).eval()
        arrays = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
        # Tied weights alone are missing.
        assert not self._model.load_state_dict(arrays, strict=False).unexpected_keys
        self._model.tie_weights()
        self._spec, self._search = model.spec.text, search
        self._mean, self._std = (torch.tensor(x).view(3, 1, 1) for x in (model.mean, model.std))

    @torch.inference_mode()
    def encode(self, video: jax.Array) -> torch.Tensor:
        """uint8 [b, t, H, W, 3] -> tokens [b, t * n, d]."""
        images = torch.from_numpy(np.array(video)).flatten(0, 1).permute(0, 3, 1, 2)
        pixels = (images / 255.0 - self._mean) / self._std
        tokens = self._model.vision_model(pixel_values=pixels).last_hidden_state
        return tokens.reshape(len(video), -1, tokens.shape[-1])

    @torch.inference_mode()
    def generate(self, tokens: torch.Tensor) -> np.ndarray:
        """ids [b, max_length] of tokens [b, m, d]."""
        return self._model.text_decoder.generate(
            input_ids=torch.full((len(tokens), 1), self._spec.decode_id),
            encoder_hidden_states=tokens,
            num_beams=self._search.beams,
            max_length=self._search.max_length,
            min_length=self._search.min_length,
            do_sample=False,
            eos_token_id=self._spec.end_id,
            pad_token_id=0,
        ).numpy()


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.generation", description=__doc__)
    sizes = [name for name, spec in SIZES.items() if spec.kind == "captioner"]
    parser.add_argument("--size", choices=sizes, default="blip_b16_captioner")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--length", type=int, default=20, help="tokens of each text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vision", action="store_true", help="from pixels, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    search = Search(
        beams=options.beams,
        max_length=options.length,
        min_length=options.length,
        semantics="transformers",
    )
    spec = SIZES[options.size]
    assert isinstance(spec, BlipSpec)
    found = bench_generation(
        spec, options.frames, options.batch, search, options.rounds, options.vision
    )
    found["device"] = jax.devices()[0].device_kind
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:26} {value:.3f}" if isinstance(value, float) else f"{name:26} {value}")


if __name__ == "__main__":
    main()
