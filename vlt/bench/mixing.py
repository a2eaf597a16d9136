"""`python -m vlt.bench.mixing [--size=...]`: a token-mixing block beside a plain block, in turn.

Both are the last block of a vision tower, with the same random weights and tokens. Timed are the
forward pass, and the gradient with respect to weights and input.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.bench import door
from vlt.bench.timing import ROUNDS, ratio, turns
from vlt.costs.flops import count
from vlt.merging.token_mixing import TokenMixing
from vlt.models.block import Block
from vlt.models.sizes import SIZES
from vlt.models.tokens import Tokens

Forward = Callable[[Any, jax.Array], jax.Array]


def bench_mixing(size: str, frames: int, batch: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Operations and seconds of a plain block and of one that mixes `frames` frames.

    `of_its_operations` is counted as in `vlt.costs.flops`; `of_its_time` and `of_its_gradient_time`
    are medians of the rounds' ratios.
    """
    spec = SIZES[size].visual
    plain = Block(spec.heads, spec.mlp_width, spec.activation, spec.norm_eps, spec.key_bias)
    mixing = plain.clone(methods=(TokenMixing(),))
    x = jax.random.normal(jax.random.key(0), (batch, frames, 1 + spec.patches, spec.width))
    params = jax.jit(plain.init)(jax.random.key(1), Tokens(x))
    forwards = [_forward(block) for block in (plain, mixing)]
    gradients = [_gradient(forward) for forward in forwards]
    operations = [count(forward, params, x).total for forward in forwards]
    programs = [jax.jit(f).lower(params, x).compile() for f in (*forwards, *gradients)]
    times = turns(*(lambda f=f: f(params, x) for f in programs), rounds=rounds)
    median = np.median(times, axis=0).tolist()
    return {
        "plain_gmacs": operations[0] / 1e9,
        "mixing_gmacs": operations[1] / 1e9,
        "of_its_operations": operations[1] / operations[0],
        "plain_s": median[0],
        "mixing_s": median[1],
        "of_its_time": ratio(times, 1, 0),
        "plain_gradient_s": median[2],
        "mixing_gradient_s": median[3],
        "of_its_gradient_time": ratio(times, 3, 2),
    }


def _forward(block: Block) -> Forward:
    def forward(params: Any, x: jax.Array) -> jax.Array:
        tokens: Any = block.apply(params, Tokens(x))
        return tokens.x

    return forward


def _gradient(forward: Forward) -> Callable[..., Any]:
    return jax.grad(lambda params, x: jnp.square(forward(params, x)).sum(), argnums=(0, 1))


def main() -> None:
    """Prints the figures for the size given on the command line."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.mixing", description=__doc__)
    parser.add_argument("--size", default="blip_b16_captioner", choices=SIZES, metavar="SIZE")
    parser.add_argument("--frames", type=door.count, default=8)
    parser.add_argument("--batch", type=door.count, default=1)
    parser.add_argument("--rounds", type=door.count, default=ROUNDS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = bench_mixing(options.size, options.frames, options.batch, options.rounds)
    door.show(found, options.json)


if __name__ == "__main__":
    door.tell(main)
