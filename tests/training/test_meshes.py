"""Every task's training step on every kind of mesh equals that of one device."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import optax
import pytest
from helpers import run_python
from test_step import assert_same_gradients

from configs import btadapter, common, video_chat
from vlt.adapters.btadapter import BTAdapter
from vlt.adapters.msta import MSTA
from vlt.data.chat_batches import VIDEO_SLOT
from vlt.data.text.dialogue_rows import NO_LABEL
from vlt.model_io.build import build_model, init_params, make_model
from vlt.models.answerer import Answerer
from vlt.models.captioner import Captioner
from vlt.models.dual_encoder import DualEncoder
from vlt.models.retriever import Retriever
from vlt.models.spec import (
    BertSpec,
    BlipSpec,
    ChatSpec,
    DualEncoderSpec,
    LlamaSpec,
    PoolerSpec,
    QFormerSpec,
    TextSpec,
    VisionSpec,
)
from vlt.runtime.mesh import make_mesh, shard_batch
from vlt.tasks.build import make_task
from vlt.tasks.captioning import Captioning
from vlt.tasks.conversation import Conversation
from vlt.tasks.matching import Matching
from vlt.tasks.question_answering import QuestionAnswering
from vlt.tasks.recognition import Descriptions, Recognition
from vlt.tasks.retrieval import Retrieval
from vlt.tasks.task import Task
from vlt.training.program import TrainingProgram

MESHES = {
    "data=8": {"data": 8},
    "fsdp=8": {"data": 1, "fsdp": 8},
    "data=2 x fsdp=4": {"data": 2, "fsdp": 4},
    "data=2 x tensor=4": {"data": 2, "tensor": 4},
}
BATCH, FRAMES, WORDS = 16, 3, 6
VISION = VisionSpec(8, 4, 32, 2, 4, 64)
TEXT = TextSpec(WORDS, 20, 32, 1, 4, 64)
BERT = BertSpec(WORDS, 20, 32, 1, 4, 64, 16, decode_id=18, encode_id=19, end_id=2, dropout=0.0)
CLIP = DualEncoderSpec(VISION, TEXT, embed_dim=16)
VICLIP = DualEncoderSpec(dataclasses.replace(VISION, temporal_frames=FRAMES), TEXT, embed_dim=16)
SIGLIP = DualEncoderSpec(
    dataclasses.replace(
        VISION, pool="attention", pooler=PoolerSpec(4, 32, 64), projection=False, pre_norm=False
    ),
    dataclasses.replace(TEXT, causal=False, readout="last", projection_bias=True),
    embed_dim=32,
    logit_bias=True,
)


def blip(kind: str) -> BlipSpec:
    joint = 16 if kind == "retriever" else 0
    visual = dataclasses.replace(VISION, layers=1, projection_bias=True)
    return BlipSpec(kind, visual, BERT, embed_dim=joint)


def texts(rows: int, seed: int) -> np.ndarray:
    """Ids in which the fourth, the end of a text, is the highest."""
    ids = np.random.default_rng(seed).integers(3, 17, (rows, WORDS)).astype(np.int32)
    ids[:, 0], ids[:, 3], ids[:, 4:] = 1, 19, 0
    return ids


CHAT = make_model(
    ChatSpec(VISION, LlamaSpec(WORDS, 20, 32, 1, 4, 64)),
    {"btadapter": {"depth": 1, "spare": 0, "drop_path": 0.0, "alignment": "none"}},
    FRAMES,
)


QUERIES = make_model(
    ChatSpec(
        VISION,
        LlamaSpec(WORDS, 20, 32, 1, 4, 64),
        "qformer",
        QFormerSpec(2, 32, 2, 4, 64, 32, vocab=20, context=WORDS, dropout=0.0),
    ),
    {},
    FRAMES,
)


def spoken() -> dict[str, np.ndarray]:
    """Dialogues about videos; the number of words in answers differs between devices."""
    ids = texts(BATCH, 3)
    ids[:, 1:3] = VIDEO_SLOT
    learned = (np.arange(WORDS) >= 3) & (np.arange(WORDS) <= 3 + np.arange(BATCH)[:, None] // 6)
    return {"text": ids, "labels": np.where(learned, ids, NO_LABEL).astype(np.int32)}


# The model, its task, and which of its leaves are trained. No mesh divides five classes.
CASES: dict[str, tuple[Any, Task, str]] = {
    "retrieval": (
        DualEncoder(CLIP, (BTAdapter(depth=1, mask_rate=0.5, drop_path=0.0),)),
        Retrieval({"vtc": 1.0, "mbta": 0.1, "mbca": 0.1}, None, True),
        "visual/btadapter/.*|logit_scale",
    ),
    "sigmoid": (DualEncoder(SIGLIP), Retrieval({"sigmoid": 1.0}, None, False), ".*"),
    "sigmoid accumulated": (DualEncoder(SIGLIP), Retrieval({"sigmoid": 1.0}, None, True), ".*"),
    "recognition": (
        DualEncoder(VICLIP, (MSTA(bottleneck=32, scale=0.1, layers=(0,)),)),
        Recognition(texts(5, 1), [Descriptions(texts(5, 2), np.arange(5))], consistency=1.0),
        ".*/msta/.*|shared_MSTA/.*",
    ),
    "captioning": (Captioner(blip("captioner")), Captioning(0.1, 1), ".*"),
    "matching": (Retriever(blip("retriever")), Matching(16, queue=64), ".*"),
    "question_answering": (
        Answerer(blip("answerer")),
        QuestionAnswering(0.1, 0.2, "videos"),
        ".*",
    ),
    "conversation": (CHAT, Conversation(), "visual/btadapter/.*|connector/.*"),
    "conversation by queries": (QUERIES, Conversation(instructed=True), "connector/.*"),
    "conversation accumulated": (CHAT, Conversation(), "visual/btadapter/.*|connector/.*"),
}


def program(name: str, mesh: dict[str, int]) -> TrainingProgram:
    model, task, trained = CASES[name]
    config = common.base()
    config.model.update(frames=FRAMES, context=WORDS)
    config.optimizer.update(lr=1e-2, accumulate=2 if "accumulated" in name else 1)
    if model is QUERIES:
        config.sharding.params = (*config.sharding.params, *video_chat.QFORMER)
    config.sharding.min_elements = 512  # splits kernels, embeddings, and queues
    frozen = ((".*", "frozen"),) if trained != ".*" else ()
    config.rules = ((trained, {"lr": 1.0}), *frozen)
    devices = jax.devices()[: int(np.prod(list(mesh.values())))]
    return TrainingProgram(config, make_mesh(mesh, devices), model, task, 10)


def stepped(training: TrainingProgram) -> tuple[Any, Any, Any]:
    """State after a step, its metrics, and the compiled program."""
    params = jax.jit(lambda: init_params(training.module, jax.random.key(0)))()
    state, frozen = training.placed(params)
    rng, batch = np.random.default_rng(0), {}
    for name, x in training.batch_shapes(BATCH).items():
        batch[name] = texts(BATCH, 3) if x.ndim == 2 else np.arange(BATCH, dtype=np.int32) % 5
    batch |= spoken() if isinstance(training.task, Conversation) else {}
    batch["video"] = rng.integers(0, 255, (BATCH, FRAMES, 8, 8, 3), dtype=np.uint8)
    data = shard_batch(batch, training.mesh)
    compiled = training.lower(state, frozen, data).compile()
    state, metrics = compiled(state, frozen, data)
    return state, metrics, compiled


def compare(name: str, meshes: Iterable[str]) -> None:
    """Compares meshes with one device: loss, terms, gradients and what the task carries."""
    jax.config.update("jax_default_matmul_precision", "highest")
    state, metrics, _ = jax.device_get(stepped(program(name, {"data": 1}))[:2] + (0,))
    for mesh in meshes:
        after, theirs, _ = stepped(program(name, MESHES[mesh]))
        assert theirs["finite"]
        for term, value in metrics.items():
            np.testing.assert_allclose(theirs[term], value, 1e-5, err_msg=f"{mesh} {term}")
        assert_same_gradients(
            optax.tree.get(state.opt_state, "mu"), optax.tree.get(after.opt_state, "mu")
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(b, a, 1e-5, 1e-5), state.task, after.task
        )
        print(mesh, "equal")


# Every axis is split in one of these; captioning covers BERT, too.
QUICK = {name: list(MESHES)[2:] for name in ("retrieval", "recognition", "captioning")}
SLOW = [pytest.param(name, list(MESHES), marks=pytest.mark.slow) for name in CASES]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "meshes"), [*QUICK.items(), *SLOW])
def test_every_mesh_is_one_device(name, meshes):
    code = "import test_meshes as t; "
    code += f"t.compare({name!r}, {meshes!r})"
    assert run_python(code, devices=8, timeout=400).count("equal") == len(meshes)


def held(config: Any, mesh: dict[str, int]) -> float:
    """Share of the bytes of parameters and optimizer state that a device holds."""
    model = build_model(config.model)
    devices = jax.devices()[: int(np.prod(list(mesh.values())))]
    task = make_task(config, model.spec)
    leaves = jax.tree.leaves(
        TrainingProgram(config, make_mesh(mesh, devices), model, task, 10).shapes()
    )
    whole = sum(x.size * x.dtype.itemsize for x in leaves)
    parts = (np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    return sum(parts) / whole


def shares() -> None:
    """Prints the share for BT-Adapter on CLIP-L/14, by mesh."""
    config = btadapter.get_config("webvid_l14")
    config.model.checkpoint = ""
    config.model.size = "clip_l14"
    print(*(held(config, MESHES[mesh]) for mesh in MESHES))


@pytest.mark.slow
def test_fsdp_splits_parameters_and_optimizer_state():
    code = "import test_meshes as t; t.shares()"
    data, fsdp, both, tensor = map(float, run_python(code, devices=8).split())
    assert data == 1
    assert fsdp <= 0.2 and both <= 0.3 and tensor <= 0.4


def similarities() -> None:
    """Prints a device's compiled step, with its shapes, for 64 samples on a mesh of 8."""
    jax.config.update("jax_default_matmul_precision", "highest")
    name, sizes = "retrieval", {"data": 8}
    training = program(name, sizes)
    state, frozen = training.shapes()
    print(training.lower(state, frozen, training.batch_shapes(64)).compile().as_text())


@pytest.mark.slow
def test_no_device_has_all_similarities():
    code = "import test_meshes as t; t.similarities()"
    program_text = run_python(code, devices=8)
    assert "f32[8,8]" in program_text, "rows of a device and a chunk of columns"
    assert "f32[64,64]" not in program_text and "f32[8,64]" not in program_text
