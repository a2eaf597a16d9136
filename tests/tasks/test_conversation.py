"""The loss of a conversation and its gradients against golden numbers of three chat models."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_chat import Golden, channels_last
from tokenizers import Tokenizer

from vlt.adapters.token_rows import TokenRows
from vlt.data.chat_batches import VIDEO_SLOT
from vlt.model_io.build import make_model
from vlt.pytrees.paths import by_path
from vlt.tasks.conversation import NO_LABEL, Conversation
from vlt.tasks.task import StepInputs
from vlt.training.rules import partition

PATCH = 515  # <vid_patch>
SMALL = 1e-6  # a norm that is rounding alone, as for the bias of keys


pytestmark = pytest.mark.usefixtures("highest_precision")


def golden(shared, name):
    return Golden(shared / "golden/chat", name)


def loss_and_gradients(model, params, rules, batch, instructed=False):
    """The loss, and the gradient of each trained leaf."""
    trained, frozen = partition(params, rules)
    task = Conversation(instructed)

    @jax.jit
    def run(trained):
        # Without `train`: the golden numbers were computed without dropout.
        inputs = StepInputs(model, trained, frozen, batch, jax.random.key(0), {})
        outputs = model.apply(
            {"params": inputs.params}, *(batch[name] for name in task.model_inputs)
        )
        return task.loss(task.features(outputs, batch))[0]

    loss, gradients = jax.value_and_grad(run)(trained)
    return float(loss), by_path(gradients)


def check_norms(found, published, numbers, prefix):
    """Checks the norms of all of `found`; parts of one published tensor count together."""
    squares: dict[str, float] = {}
    for path, gradient in found.items():
        name = published[path]
        squares[name] = squares.get(name, 0.0) + float(jnp.square(gradient).sum())
    norms = {name: square**0.5 for name, square in squares.items()}
    known = {key.removeprefix(prefix) for key in numbers.files if key.startswith(prefix)}
    assert norms.keys() == known
    for name, norm in norms.items():
        np.testing.assert_allclose(
            norm, numbers[prefix + name], rtol=1e-3, atol=SMALL, err_msg=name
        )


LLAVA_RULES = (
    (r"visual/btadapter/(spatial|temporal)_3/.*", "frozen"),
    ("visual/btadapter/.*_gate", "frozen"),
    ("visual/btadapter/.*", {}),
    ("connector/.*", {}),
    ("text/token_rows", {}),
    (".*", "frozen"),
)


@pytest.mark.quick(1)
@pytest.mark.parametrize(("form", "halving"), [("no_halving", False), ("published", True)])
def test_llava_with_a_branch(shared, form, halving):
    """The branch, the projection and two rows of the word table are trained."""
    llava = golden(shared, "llava")
    numbers, rows = llava.numbers, TokenRows()
    branch = {"drop_path": 0.0, "temporal_halving": halving}
    model = make_model(llava.spec, {"btadapter": branch, "token_rows": {}})
    params = rows.init_from_backbone(llava.params, llava.spec)
    batch = {
        "video": numbers["train/features"],
        "text": np.where(
            numbers["train/input_ids"] == PATCH, VIDEO_SLOT, numbers["train/input_ids"]
        ),
        "labels": numbers["train/labels"],
    }
    loss, found = loss_and_gradients(model, params, LLAVA_RULES, batch)
    np.testing.assert_allclose(loss, numbers[f"train/{form}/loss"], rtol=1e-4)
    published = {
        path: name.removeprefix("vision_tower.").removeprefix("model.")
        for path, name in llava.published().items()
    } | {"text/token_rows": "embed_tokens.weight"}
    check_norms(found, published, numbers, f"train/{form}/gradnorm/")
    prefix = f"train/{form}/grad/"
    close(found["text/token_rows"], numbers[f"{prefix}embed_tokens.weight_start_end"])
    close(found["connector/projection/kernel"].T, numbers[f"{prefix}mm_projector.weight"])
    if form == "no_halving":
        close(
            found["visual/btadapter/time_embedding"],
            numbers[f"{prefix}btadapter_time_embed.weight"],
        )
        key = found["visual/btadapter/temporal_1/attention/key/kernel"].T
        close(key, numbers[f"{prefix}btadapter_T_layers.1.self_attn.k_proj.weight"])


def test_no_gradient_of_a_frozen_language_model_is_computed(shared):
    """Nor of its word table: its backward pass computes gradients of activations only."""
    llava = golden(shared, "llava")
    model = make_model(llava.spec, {"btadapter": {}, "token_rows": {}})
    params = TokenRows().init_from_backbone(llava.params, llava.spec)
    numbers, task = llava.numbers, Conversation()
    batch = {"video": numbers["train/features"], "text": numbers["train/input_ids"]}
    batch["labels"] = numbers["train/labels"]

    def shapes(rules):
        """Shapes of all products and scatters in a gradient's program."""
        trained, frozen = partition(params, rules)

        def loss(trained):
            key = jax.random.key(0)
            return task.objective(StepInputs(model, trained, frozen, batch, key, {}))[0]

        program = str(jax.make_jaxpr(jax.grad(loss))(trained))
        found = re.findall(r":f32\[([\d,]+)\] = (?:dot_general|scatter-add)", program)
        return {tuple(map(int, shape.split(","))) for shape in found}

    kernels = {(64, 176), (176, 64), (64, 518), (516, 64), (518, 64)}
    transposed = {shape[::-1] for shape in kernels}
    assert not (kernels | transposed) & shapes(LLAVA_RULES)
    assert (kernels | transposed) & shapes((("text/.*", {}), *LLAVA_RULES[:-3], LLAVA_RULES[-1]))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


PROJECTION = (("connector/projection/.*", {}), (".*", "frozen"))


def joined(rows, prompt_and_answer):
    """ids and labels, padded at the end, of pairs of a prompt's and an answer's ids."""
    length = max(len(prompt) + len(answer) for prompt, answer in prompt_and_answer)
    ids = np.zeros((rows, length), int)
    labels = np.full((rows, length), NO_LABEL)
    for row, (prompt, answer) in enumerate(prompt_and_answer):
        ids[row, : len(prompt) + len(answer)] = [*prompt, *answer]
        labels[row, len(prompt) : len(prompt) + len(answer)] = answer
    return ids, labels


@pytest.mark.slow
@pytest.mark.parametrize("form", ["bt", "image"])
def test_minigpt4_trains_its_projection(shared, form):
    minigpt4 = golden(shared, "minigpt4")
    numbers = minigpt4.numbers
    tokenizer = Tokenizer.from_file(str(shared / "golden/chat/tokenizer/tokenizer.json"))

    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    pairs = []
    for instruction, answer in zip(
        numbers["train/instruction"], numbers["train/answer"], strict=True
    ):
        before, after = str(instruction).split("<ImageHere>")
        pairs.append(([1, *ids(before), *[VIDEO_SLOT] * 8, *ids(after)], ids(f"{answer}###")))
    text, labels = joined(2, pairs)
    adapted, frames = form == "bt", channels_last(numbers["video_times8_int8"]) / 8
    video = np.stack([frames] * 2) if adapted else frames[:2, None]
    batch = {"video": video, "text": text, "labels": labels}
    params = minigpt4.params if adapted else minigpt4.plain()
    loss, found = loss_and_gradients(minigpt4.model(adapted=adapted), params, PROJECTION, batch)
    np.testing.assert_allclose(loss, numbers[f"train/{form}/loss"], rtol=1e-4)
    prefix = f"train/{form}/grad/llama_proj"
    close(found["connector/projection/kernel"].T, numbers[f"{prefix}.weight"])
    close(found["connector/projection/bias"], numbers[f"{prefix}.bias"])


@pytest.mark.slow
def test_instructblip_trains_all_that_stands_between(shared):
    instructblip = golden(shared, "instructblip")
    numbers = instructblip.numbers
    tokenizer = Tokenizer.from_file(str(shared / "golden/chat/tokenizer/tokenizer.json"))
    pairs = []
    for row, mask, answer in zip(
        numbers["llm_ids_left"], numbers["llm_mask_left"], numbers["answers"], strict=True
    ):
        said = tokenizer.encode(f"{answer}</s>", add_special_tokens=False).ids
        pairs.append(([*[VIDEO_SLOT] * 8, *row[mask > 0]], said))
    text, labels = joined(2, pairs)
    videos = channels_last(numbers["videos_bcthw_times8_int8"].swapaxes(1, 2)) / 8
    batch = {
        "video": videos[:, :1],
        "text": text,
        "labels": labels,
        "instruction": numbers["qformer_ids"],
    }
    loss, found = loss_and_gradients(
        instructblip.model(adapted=False),
        instructblip.plain(),
        (("connector/.*", {}), (".*", "frozen")),
        batch,
        instructed=True,
    )
    np.testing.assert_allclose(loss, numbers["train/loss"], rtol=1e-4)
    check_norms(found, instructblip.published(), numbers, "train/gradnorm/")
    prefix = "train/grad/"
    close(found["connector/queries"][None], numbers[f"{prefix}query_tokens"])
    words = found["connector/qformer/token_embedding/embedding"]
    close(words, numbers[f"{prefix}Qformer.bert.embeddings.word_embeddings.weight"])


def test_the_loss_is_a_mean_over_all_labelled_tokens():
    """However tokens are spread over rows, so that a batch may be processed in parts."""
    rng = np.random.default_rng(0)
    task = Conversation()
    logits = rng.normal(size=(3, 5, 7)).astype(np.float32)
    labels = rng.integers(0, 7, (3, 5))
    labels[0, :4] = NO_LABEL
    labels[1] = NO_LABEL
    features = task.features({"logits": logits}, {"labels": labels})
    rows, places = np.nonzero(labels[:, 1:] != NO_LABEL)
    log = np.asarray(jax.nn.log_softmax(logits))
    each = [-log[r, p, labels[r, p + 1]] for r, p in zip(rows, places, strict=True)]
    loss, _ = task.loss(features)
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-6)
    assert features["words"].tolist() == [1, 0, 4] and task.separable


def test_trained_rows_leave_their_table_and_come_back(shared):
    llava, rows = golden(shared, "llava"), TokenRows(3)
    parted = rows.init_from_backbone(llava.params, llava.spec)
    table = llava.params["text"]["token_embedding"]["embedding"]
    assert parted["text"]["token_embedding"]["embedding"].shape == (515, 64)
    np.testing.assert_array_equal(parted["text"]["token_rows"], table[515:])
    left, merged = rows.fold_for_inference(parted)
    assert left is None
    flat, before = (traverse_util.flatten_dict(tree["text"]) for tree in (merged, llava.params))
    jax.tree.map(np.testing.assert_array_equal, flat, before)
    ids = np.array([[0, 514, 515, 517]])
    model = make_model(llava.spec, {"token_rows": {"rows": 3}})
    found = model.apply({"params": parted}, ids, method="embed")
    np.testing.assert_array_equal(found[0], table[ids[0]])
    with pytest.raises(ValueError, match="token_rows.rows=518: fewer than the 518 words there are"):
        make_model(llava.spec, {"token_rows": {"rows": 518}})
