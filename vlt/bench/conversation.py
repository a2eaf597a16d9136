"""`python -m vlt.bench.conversation [--dtype=bfloat16] [--json]`: answers beside those of torch.

A LLaMA with random weights reads a prompt and writes an answer of full length, greedily, in turn
with transformers' `generate` and its cache: same weights, same ids, one thread per core. Shares
refer to rates measured in the same run: for a prompt, to the matmul rate; for an answer, to the
rate of a sum over as many bytes as the weights, which are read once per token (all but the token
embedding).
"""

import argparse
from collections.abc import Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vlt.bench.door import count, show, tell
from vlt.bench.timing import matmul_rate, ratio, seconds, turns
from vlt.models.continuation import Ending, Words, bucket, read, write, written_before
from vlt.models.llama import Llama
from vlt.models.points import Method
from vlt.models.search import Search
from vlt.models.spec import LlamaSpec
from vlt.models.tokens import KeysValues

NARROW = LlamaSpec(2048, 32000, 512, 16, 4, 1376)  # an eighth of 7B's width, half its layers


class Decoder(nn.Module):
    """A language model alone, with what the reading and writing of a chat model call."""

    methods: ClassVar[tuple[Method, ...]] = ()

    spec: LlamaSpec
    dtype: Any

    def setup(self) -> None:
        self.text = Llama(self.spec, dtype=self.dtype)

    def embed(self, ids: jax.Array) -> jax.Array:
        """As `ChatModel.embed`."""
        return self.text.embed(ids)

    def decode(
        self, x: jax.Array, places: jax.Array, *rest: Any, **options: Any
    ) -> tuple[jax.Array, list[KeysValues]]:
        """As `ChatModel.decode`."""
        states, cache = self.text(x, places, *rest, **options)
        return self.text.logits(states[:, :, -1]), cache

    def __call__(self, ids: jax.Array) -> jax.Array:
        """ids [b, l] -> logits [b, 1, v], through all leaves."""
        return self.decode(self.embed(ids)[:, None], jnp.arange(ids.shape[1])[None])[0]


def bench_conversation(
    spec: LlamaSpec, dtype: str, prompt: int, batch: int, length: int, rounds: int
) -> dict[str, Any]:
    """Medians over rounds of both sides' seconds, and of the rounds' ratios.

    `same_ids` is the share of the answers' ids on which both agree.
    """
    from vlt.bench.torch_llama import TorchDecoder  # torch is an extra

    model = Decoder(spec, jnp.dtype(dtype))
    ids = jax.random.randint(jax.random.key(1), (batch, prompt), 3, spec.vocab)
    params = jax.jit(model.init)(jax.random.key(0), ids[:1, :2])["params"]
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    peer = TorchDecoder(spec, params["text"], dtype)

    def answer(tokens: int) -> np.ndarray:
        return _answer(model, params, ids, tokens)

    ours, theirs = answer(length), peer.generate(np.asarray(ids), length)
    times = turns(
        lambda: answer(1),
        lambda: peer.generate(np.asarray(ids), 1),
        lambda: answer(length),
        lambda: peer.generate(np.asarray(ids), length),
        rounds=rounds,
    )
    steps = np.stack([times[:, 2] - times[:, 0], times[:, 3] - times[:, 1]], 1) / (length - 1)
    first, peer_first = np.median(times[:, :2], axis=0).tolist()
    step, peer_step = np.median(steps, axis=0).tolist()
    leaves = {"weights": params["text"], "embedding": params["text"]["token_embedding"]}
    size = {name: sum(x.nbytes for x in jax.tree.leaves(tree)) for name, tree in leaves.items()}
    weights = size["weights"] - size["embedding"]
    multiplied = weights // jnp.dtype(dtype).itemsize - spec.vocab * spec.width
    return {
        "same_ids": float((ours == theirs).mean()),
        "prefill_s": first,
        "peer_prefill_s": peer_first,
        "prefill_matmul_share": 2
        * batch
        * prompt
        * multiplied
        / first
        / matmul_rate(batch * prompt, spec.width),
        "token_s": step,
        "peer_token_s": peer_step,
        "tokens_a_second": batch / step,
        "times_as_fast": ratio(steps, 1, 0),
        "memory_share": weights / _memory_rate(weights) / step,
    }


def _answer(model: nn.Module, params: Any, ids: jax.Array, length: int) -> np.ndarray:
    """Answers to the prompts [b, n]: ids [b, length]."""
    rows, prompt = ids.shape
    search = Search("greedy", max_length=length, min_length=length)
    words, skipped = Words(ids, jnp.full_like(ids, -1)), jnp.zeros(rows, jnp.int32)
    nothing = jnp.zeros((rows, 0, model.spec.width))
    reading = read(model, params, words, nothing, skipped, bucket(prompt + length))
    known, unseen = written_before(words, skipped, search, model.spec.vocab, True)
    answers: Iterator[Any] = write(
        model, params, reading, known, unseen, search, Ending(model.spec.end_id), chunk=length
    )
    for found in answers:
        state = found.state
    return np.asarray(state.ids[:, 0, 1:])


def _memory_rate(size: int) -> float:
    """Best rate, in bytes a second, at which a sum over `size` bytes reads them, on all cores."""
    import torch

    values = torch.ones(size // 4)
    values.sum()
    return size / min(seconds(values.sum) for _ in range(10))


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.conversation", description=__doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompt", type=count, default=336, help="tokens")
    parser.add_argument("--batch", type=count, default=1)
    parser.add_argument("--length", type=count, default=32, help="tokens of each answer, 2 or more")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = bench_conversation(
        NARROW,
        options.dtype,
        options.prompt,
        options.batch,
        options.length,
        options.rounds,
    )
    found["device"] = jax.devices()[0].device_kind
    show(found, options.json)


if __name__ == "__main__":
    tell(main)
