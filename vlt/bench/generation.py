"""`python -m vlt.bench.generation [--vision] [--json]`: beam search beside transformers' in torch.

Both caption the same tokens of the same videos with the same random weights, in turn, writing
texts of full length; with --vision, also from pixels. transformers' BLIP runs in inference mode
with one thread per core. The texts of both are compared first.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.bench.door import count, show, tell
from vlt.bench.forward import random_video
from vlt.bench.timing import ratio, turns
from vlt.model_io.build import init_params
from vlt.models.captioner import Captioner
from vlt.models.generation import generate
from vlt.models.search import Search
from vlt.models.sizes import SIZES
from vlt.models.spec import BlipSpec


def bench_generation(
    spec: BlipSpec, frames: int, batch: int, search: Search, rounds: int, vision: bool = False
) -> dict[str, Any]:
    """Medians over rounds of both sides' seconds a batch, and the median of the rounds' ratios.

    `same_texts` is the share of texts on which both agree to the last token.
    """
    from vlt.bench.torch_blip import TorchCaptioner  # torch is an extra

    model = Captioner(spec, frames=frames)
    params = jax.jit(lambda: init_params(model, jax.random.key(0)))()
    video = random_video(model, batch)
    tokens = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode_video")[0])
    source = jax.block_until_ready(tokens(params, video))
    prompt = jnp.ones((batch, 1), jnp.int32)
    peer = TorchCaptioner(model, params, search)
    states = peer.states(source)
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


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.generation", description=__doc__)
    sizes = [name for name, spec in SIZES.items() if spec.kind == "captioner"]
    parser.add_argument("--size", choices=sizes, default="blip_b16_captioner")
    parser.add_argument("--frames", type=count, default=8)
    parser.add_argument("--batch", type=count, default=4)
    parser.add_argument("--beams", type=count, default=3)
    parser.add_argument("--length", type=count, default=20, help="tokens of each text")
    parser.add_argument("--rounds", type=count, default=5)
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
    show(found, options.json)


if __name__ == "__main__":
    tell(main)
