"""Runs every kind of evaluation on small models, on two devices of one process or of two."""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import test_answering as answers
import test_evaluate_matching as ranked
import test_recognition as actions
import test_written_answers as written
from evaluated import BATCH, Words, data, predictor
from small_retriever import TEXT, VISUAL, params, retriever

from vlt.evaluation import KINDS
from vlt.evaluation.protocols import PROTOCOLS, Protocol
from vlt.model_io.build import make_model
from vlt.models.answerer import Answerer
from vlt.models.captioner import Captioner
from vlt.models.spec import BlipSpec, EncoderSpec

UNREAD = (4,)
PLAIN = {"protocol": "moving_shapes", "allow_subset": False, "ties": "against"}
PLAIN |= {"manifest": "moving_shapes:clips:test:11"}
SEARCH = {"method": "beam", "beams": 2, "max_length": 5, "min_length": 1}


class Prompted(Words):
    """With a prompt of the start token alone."""

    def prompt(self, text: str) -> np.ndarray:
        del text
        return np.array([1], np.int32)


def everything(workdir: Path) -> dict[str, Any]:
    """{kind: metrics} of all kinds that look at videos."""
    found = inputs(workdir, devices=2)
    del found["twin_captions"]
    return {kind: KINDS[kind].run(*given, 0) for kind, given in found.items()}


def inputs(workdir: Path, devices: int) -> dict[str, tuple[Any, ...]]:
    """{kind: (predictor, params, section, data)}."""
    entry = Protocol("moving_shapes_qa", None, 10, False, "this test", texts="questions")
    PROTOCOLS[entry.name] = entry
    rows = BATCH // jax.process_count()
    own = slice(rows * jax.process_index(), rows * (jax.process_index() + 1))
    context = dataclasses.replace(TEXT, context=8)

    def parts(model: Any, tree: Any = None) -> Any:
        made = predictor(model, workdir, devices)
        made.tokenizer = Prompted()
        return made, params(model) if tree is None else tree

    videos = ranked.records()
    labelled = actions.labelled()
    labelled.evaluate = data(labelled.records, UNREAD, own).evaluate
    dual = parts(actions.model(), actions.params())
    captioner = parts(Captioner(BlipSpec("captioner", VISUAL, context)))
    twins = SimpleNamespace(**vars(data(pairs(), UNREAD, own)), manifest=Path("twins.jsonl"))
    ask = answers.SECTION | {"search": SEARCH}
    captions = PLAIN | {"search": SEARCH, "prompt": ""}
    some = {"min_pairs": 1}
    probe = {"attention_probe": {"classes": len(actions.CLASSES)}}
    classifier = parts(make_model(EncoderSpec(VISUAL), probe, 2))
    classifier[0].trained_classes = tuple(actions.CLASSES)
    named = SimpleNamespace(**vars(labelled) | {"name": "classes"})
    return _dialogues(workdir, devices, own) | {
        "classification": (*classifier, actions.SECTION, named),
        "retrieval": (*dual, PLAIN, data(videos, UNREAD, own)),
        "twins": (*dual, some, twins),
        "twin_captions": (*dual, some, twins),
        "recognition": (*dual, actions.SECTION, labelled),
        "matching": (
            *parts(retriever()),
            ranked.SECTION | {"rerank": 3},
            data(videos, UNREAD, own),
        ),
        "question_answering": (
            *parts(Answerer(BlipSpec("answerer", VISUAL, context))),
            ask,
            data(answers.records(answers.ANSWERS[:10]), UNREAD, own),
        ),
        "captioning": (*captioner, captions, data(videos, UNREAD, own)),
        "caption_twins": (*captioner, some, twins),
    }


def _dialogues(workdir: Path, devices: int, own: slice) -> dict[str, tuple[Any, ...]]:
    """As `inputs`, of the packaged chat model on five questions, each about a clip and its twin."""
    loaded, made = written.chat(workdir, devices)
    weights = jax.tree.map(np.asarray, loaded.params)
    for pair in (asked := pairs()):
        answer = "it moves left" if int(pair.id) % 2 else "it moves right"
        vars(pair).update(question=written.QUESTIONS[1], answers=(answer,))
    (workdir / "candidates.txt").write_text("it moves left\nit moves right\n")
    own_data = written.SECTION | {"search": written.SEARCH | {"max_length": 4}}
    sections = {
        "answers": own_data,
        "written_answers": own_data,
        "ranked_answers": own_data | {"answers": str(workdir / "candidates.txt")},
        "answer_twins": {"min_pairs": 1},
    }
    rows = vars(data(asked, UNREAD, own, loaded.module.spec.visual.image_size))
    rows |= {"manifest": Path("twins.jsonl")}
    return {
        kind: (made, weights, section, SimpleNamespace(**rows | {"name": kind}))
        for kind, section in sections.items()
    }


def pairs() -> list[Any]:
    """Five pairs of clips that stand for twins."""
    rng = np.random.default_rng(1)
    return [
        SimpleNamespace(
            video=f"twin {index}",
            captions=(" ".join(map(str, rng.integers(3, 18, 3))),),
            extra={"pair": index // 2, "family": "size"},
            line=index + 1,
            id=str(index),
        )
        for index in range(10)
    ]


if __name__ == "__main__":
    print(json.dumps(everything(Path(sys.argv[1]))))
