"""Deltas of Vicuna v0, v1.1 and LLaVA over LLaMA, and how wrong ones are recognised."""

import re

import numpy as np
import pytest
from chat_files import chosen, golden, llama_folder, same, save

from vlt.convert.chat.deltas import norms_are_small
from vlt.convert.chat.parts import put_together, read_part, with_delta
from vlt.convert.errors import ConversionError
from vlt.convert.tables.lazy import Lazy

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def tokenizer(shared):
    return shared / "golden/chat/tokenizer"


@pytest.fixture(scope="module")
def base(shared):
    """A LLaMA in half precision, with a vocabulary of 512."""
    llm = chosen(golden(shared, "llava"), r"model\.(?!mm)|lm_head")
    return {n: (x[:512] if n in VOCABULARY else x).astype(np.float16) for n, x in llm.items()}


def delta_of(base, more=0, projector=False):
    """A delta of small differences, with `more` rows of words, and LLaVA's projector if asked."""
    rng = np.random.default_rng(0)

    def noise(shape, size=0.01):
        return (size * rng.standard_normal(shape)).astype(np.float16)

    delta = {n: noise(x.shape) for n, x in base.items()}
    for name in VOCABULARY if more else ():
        delta[name] = np.concatenate([delta[name], noise((more, 64), 1)])
    if projector:
        delta["model.mm_projector.weight"] = noise((64, 48), 1)
        delta["model.mm_projector.bias"] = noise((64,), 1)
    return delta


def part_of(folder, tensors, tokenizer, **config):
    return read_part("llm", llama_folder(folder, tensors, tokenizer, **config))


@pytest.mark.parametrize(
    ("more", "projector", "kind"),
    [
        (0, False, "Vicuna v1.1: 512 rows over the base's 512"),
        (1, False, r"Vicuna v0, with \[PAD\]: 513 rows over the base's 512"),
        (3, True, "LLaVA, 515 rows over the base's 512, with its projector"),
        (4, True, "LLaVA, 516 rows"),
    ],
)
def test_kinds_are_told_by_their_rows(more, projector, kind, base, tokenizer, tmp_path):
    delta = delta_of(base, more, projector)
    parts = [part_of(tmp_path / n, x, tokenizer) for n, x in (("b", base), ("d", delta))]
    whole = with_delta(*parts)
    assert re.search(kind, whole.notes[-1])
    merged = dict(delta)
    for name, tensor in base.items():
        merged[name] = merged[name].copy()
        merged[name][: len(tensor)] += tensor  # in 16 bits, as the publishers add
    expected = part_of(tmp_path / "m", merged, tokenizer)
    found = {path: leaf.values() for path, leaf in whole.leaves.items()}
    same(found, {path: leaf.values() for path, leaf in expected.leaves.items()})
    together = put_together([whole])
    assert bool(together.of("connector")) == projector


def test_what_is_no_sum(base, tokenizer, tmp_path):
    delta, names = delta_of(base), iter("abcdefghijklmn")

    def refused(first, second, message):
        one, two = (part_of(tmp_path / next(names), x, tokenizer) for x in (first, second))
        with pytest.raises(ConversionError, match=message):
            with_delta(one, two)

    refused(base, base, "a mean of 1, and 100% of them are positive, as of a whole model")
    refused(delta, delta, "as the base of a delta: its RMSNorm weights have .* no language model")
    merged = {n: base[n] + delta[n] for n in base}
    refused(merged, delta, r"the base has the delta in it (0\.[89]|1\.[01])\d times \(0 expected\)")
    refused(base, delta_of(base, 2), "514 rows over the base's 512; a delta of Vicuna v1.1 has as")
    with_pad = {n: np.concatenate([x, x[:1]]) if n in VOCABULARY else x for n, x in base.items()}
    refused(with_pad, delta, "the base has 513 words, the delta 512: the base is not LLaMA")
    less = {n: x for n, x in delta.items() if "layers.2" not in n}
    refused(base, less, "the delta has no text/blocks_2/")
    wide = delta | {"model.layers.0.mlp.up_proj.weight": np.zeros((200, 64), np.float16)}
    refused(base, wide, r"mlp/fc1/kernel is \[64, 176\] in the base, \[64, 200\] in the delta")


def test_a_base_of_another_generation(base, tokenizer, tmp_path):
    other = part_of(tmp_path / "b", base, tokenizer, rms_norm_eps=1e-5)
    delta = part_of(tmp_path / "d", delta_of(base), tokenizer)
    with pytest.raises(ConversionError, match="epsilon is 1e-05, LLaMA-1's is 1e-6"):
        with_delta(other, delta)


def test_a_delta_is_no_model(base, tokenizer, tmp_path):
    delta = part_of(tmp_path / "d", delta_of(base), tokenizer)
    with pytest.raises(ConversionError, match="a delta, not a model. Give its base as --llm and"):
        put_together([delta])


def test_a_file_without_config_may_be_a_delta(base, tokenizer, tmp_path):
    first = part_of(tmp_path / "b", base, tokenizer)
    second = read_part("llm", save(tmp_path / "delta.safetensors", delta_of(base)))
    whole = with_delta(first, second)
    assert whole.config == first.config


@pytest.mark.parametrize(
    ("scales", "small"),
    [
        ([0.4] * 10, False),
        ([0.4] * 9 + [-0.1], False),
        ([0.01] * 10, True),  # about 0, though all are positive
        ([0.4] * 8 + [-0.1] * 2, True),  # far from 0, though often negative
    ],
)
def test_norms_tell_a_delta_by_their_mean_or_their_signs(scales, small):
    array = np.array(scales, np.float32)
    leaves = {"text/final_norm/scale": Lazy.of("text/final_norm/scale", array)}
    assert norms_are_small(leaves) == small
