"""Chat models against golden numbers of LLaVA, MiniGPT-4 and InstructBLIP with BT-Adapter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_chat import Golden, channels_last

from vlt.data.chat_batches import VIDEO_SLOT

TOKENS, LOGITS = 1e-4, 5e-4  # maximum differences
PATCH = 515  # <vid_patch>, replaced by LLaVA's video tokens


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module")
def llava(shared):
    return Golden(shared / "golden/chat", "llava")


@pytest.fixture(scope="module")
def minigpt4(shared):
    return Golden(shared / "golden/chat", "minigpt4")


@pytest.fixture(scope="module")
def instructblip(shared):
    return Golden(shared / "golden/chat", "instructblip")


def encode(model, params, *inputs):
    """Tokens for the language model, and the further outputs."""
    run = jax.jit(lambda p, *x: model.apply({"params": p}, *x, method="encode_video"))
    return run(params, *map(jnp.asarray, inputs))


def logits(model, params, ids, tokens, places=None, valid=None):
    """Logits [b, l, v] of prompts [b, l]."""
    places = np.arange(ids.shape[1])[None] if places is None else places

    def call(model, ids, tokens, places, valid):
        x = model.embed(ids, tokens)[:, None]
        return model.decode(x, places, valid, whole=True)[0][:, 0]

    run = jax.jit(lambda p, *x: model.apply({"params": p}, *x, method=call))
    return run(params, ids, tokens, places, valid)


def slotted(ids):
    return np.where(ids == PATCH, VIDEO_SLOT, ids)


def close(found, expected, atol):
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=atol, rtol=0)


def frames(golden, length):
    return channels_last(golden.numbers[f"{length}/video_times2_int8"])[None] / 2


@pytest.mark.quick(2)
@pytest.mark.parametrize("length", ["T8", "T6"])
@pytest.mark.parametrize(("form", "halving"), [("no_halving", False), ("published", True)])
def test_llava_reads_the_tokens_of_a_branch(llava, length, form, halving):
    numbers, model = llava.numbers, llava.model(temporal_halving=halving)
    tokens, out = encode(model, llava.params, frames(llava, length))
    close(out["video_tokens"][0], numbers[f"{length}/tokens_{form}"], TOKENS)
    close(tokens[0], numbers[f"{length}/projected_{form}"], TOKENS)
    found = logits(model, llava.params, slotted(numbers["prompt/ids"]), tokens)
    close(found[0, -100:], numbers[f"{length}/{form}/logits"], LOGITS)


def test_every_video_of_a_prompt_is_read(llava):
    numbers, model = llava.numbers, llava.model()
    both = [encode(model, llava.params, frames(llava, length))[0] for length in ("T8", "T6")]
    ids = slotted(numbers["two_videos/ids"])
    found = logits(model, llava.params, ids, jnp.concatenate(both, axis=1))[0, -8:]
    close(found, numbers["two_videos/both/logits_last"], LOGITS)
    only_last = numbers["two_videos/published_last_only/logits_last"]
    assert np.abs(found - only_last).max() > 1


@pytest.mark.parametrize(("form", "halving"), [("no_halving", False), ("published", True)])
def test_cached_features_enter_before_the_blocks_that_the_branch_reads(llava, form, halving):
    model = llava.model(temporal_halving=halving)
    _, out = encode(model, llava.params, llava.numbers["train/features"])
    close(out["video_tokens"], llava.numbers[f"train/{form}/tokens"], TOKENS)


def test_features_are_what_left_the_block_before(llava):
    model, video = llava.model(), frames(llava, "T6")
    whole, out = jax.jit(
        lambda p, x: model.apply({"params": p}, x, capture=True, method="encode_video")
    )(llava.params, video)
    assert model.spec.feature_blocks == 1
    tokens, _ = encode(model, llava.params, out["block_0"].x)
    close(tokens, whole, 1e-5)


def test_tokens_without_a_branch(llava):
    plain, video = llava.plain(), frames(llava, "T8")
    first = dataclasses.replace(llava.spec, cls="first")
    _, out = encode(llava.model(first, adapted=False), plain, video)
    close(out["video_tokens"][0], llava.numbers["T8/tokens_plain_mean"], TOKENS)
    pooled = dataclasses.replace(llava.spec, cls="none", tokens="st_pool")
    _, out = encode(llava.model(pooled, adapted=False), plain, video)
    published = llava.numbers["T8/st_pool_half"].astype(np.float32)
    np.testing.assert_allclose(out["video_tokens"][0], published, rtol=2**-10, atol=1e-4)
    each = dataclasses.replace(llava.spec, cls="none", tokens="frames")
    tokens, out = encode(llava.model(each, adapted=False), plain, video)
    assert tokens.shape == (1, 8 * 16, llava.spec.text.width)
    first_two = llava.numbers["T8/clip_penultimate_frames_0_1"][:, 1:].reshape(32, -1)
    close(out["video_tokens"][0, :32], first_two, TOKENS)


def test_minigpt4(minigpt4):
    numbers, model = minigpt4.numbers, minigpt4.model()
    video = channels_last(numbers["video_times8_int8"])[None] / 8
    segments = numbers["prompt/segment0_ids"], [VIDEO_SLOT] * 8, numbers["prompt/segment1_ids"]
    ids = np.concatenate(segments)[None]
    tokens, out = encode(model, minigpt4.params, video)
    close(out["video_tokens"][0], numbers["bt/tokens_cls_first"], TOKENS)
    close(out["queries"][0], numbers["bt/query_output"], TOKENS)
    close(tokens[0], numbers["bt/inputs_llama"], TOKENS)
    close(logits(model, minigpt4.params, ids, tokens)[0], numbers["bt/logits"], LOGITS)

    plain, model = minigpt4.plain(), minigpt4.model(adapted=False)
    tokens, out = encode(model, plain, video[:, :1])
    close(out["video_tokens"][0], numbers["image/vit_out_frame0"], TOKENS)
    close(out["queries"][0], numbers["image/query_output_frame0"], TOKENS)
    close(tokens[0], numbers["image/inputs_llama_frame0"], TOKENS)
    close(logits(model, plain, ids, tokens)[0], numbers["image/logits"], LOGITS)


def instructed(golden):
    """Videos and instructions."""
    videos = golden.numbers["videos_bcthw_times8_int8"].swapaxes(1, 2)
    return channels_last(videos) / 8, golden.numbers["qformer_ids"]


@pytest.mark.slow
def test_instructblip_with_a_branch(instructblip):
    tokens, out = encode(instructblip.model(), instructblip.params, *instructed(instructblip))
    close(out["video_tokens"], instructblip.numbers["bt/tokens_cls_first"], TOKENS)
    close(tokens, instructblip.numbers["bt/inputs_llm"], TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["frames", "image"])
def test_instructblip_whose_padding_stands_within(instructblip, layout):
    numbers, spec = instructblip.numbers, dataclasses.replace(instructblip.spec, tokens="frames")
    model, plain = instructblip.model(spec, adapted=False), instructblip.plain()
    videos, instructions = instructed(instructblip)
    taken = videos[:, :1] if layout == "image" else videos
    tokens, out = encode(model, plain, taken, instructions)
    close(tokens, numbers[f"{layout}/inputs_llm"], TOKENS)
    if layout == "image":
        states = jnp.concatenate([out["queries"], out["instruction"]], axis=1)
        close(states, numbers["image/qformer_all_outputs"], TOKENS)
    slots = np.full(tokens.shape[:2], VIDEO_SLOT)
    ids = np.concatenate([slots, numbers["llm_ids_left"]], axis=1)
    places, mask = (numbers[f"{layout}/{name}"] for name in ("position_ids", "attention_mask"))
    found = logits(model, plain, ids, tokens, places, mask > 0)[:, -1]
    close(found, numbers[f"{layout}/logits_last"], LOGITS)


def test_a_call_gives_the_logits_of_a_prompt(llava):
    numbers, model = llava.numbers, llava.model()
    ids = slotted(numbers["prompt/ids"])
    out = jax.jit(lambda p, *x: model.apply({"params": p}, *x))(
        llava.params, frames(llava, "T6"), ids
    )
    close(out["logits"][0, -100:], numbers["T6/no_halving/logits"], LOGITS)
