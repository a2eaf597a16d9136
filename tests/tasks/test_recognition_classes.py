"""What methods hold for each class: contexts, sentences, and texts that they keep."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from vlt.adapters.mote import MoTE
from vlt.adapters.vita_clip import VitaCLIP
from vlt.evaluation.recognition import _known
from vlt.model_io.build import abstract_params
from vlt.models.dual_encoder import DualEncoder
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.tasks.descriptions import DescriptionError
from vlt.tasks.recognition import Recognition
from vlt.tasks.sentences import read_sentences
from vlt.tasks.task import StepInputs

SPEC = DualEncoderSpec(VisionSpec(8, 4, 16, 1, 2, 32), TextSpec(8, 20, 16, 1, 2, 32), 8)
C, FRAMES = 3, 2
IDS = np.array([[1, 5, 19, 0], [1, 6, 19, 0], [1, 7, 4, 19]], np.int32)
TASK = Recognition(IDS)


def model(*methods) -> tuple[DualEncoder, dict]:
    module = DualEncoder(SPEC, methods, FRAMES)
    rng = np.random.default_rng(0)
    draw = lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32)  # noqa: E731
    return module, jax.tree.map(draw, abstract_params(module))


def test_each_class_is_trained_with_its_own_context():
    module, params = model(VitaCLIP(FRAMES, text_prompts=2, classes=C))
    batch = {
        "video": np.random.default_rng(1).integers(0, 255, (2, FRAMES, 8, 8, 3), np.uint8),
        "label": np.array([0, 2], np.int32),
    }
    state = TASK.initial_state(module, params, {})
    assert not state  # texts are not frozen

    @jax.jit
    @jax.grad
    def gradient(params):
        inputs = StepInputs(module, params, {}, batch, jax.random.key(0), state)
        return TASK.forward(inputs)["logits"][:, 1].sum()  # of one class

    found = gradient(params)["text"]["vita_clip"]["context"]
    assert np.abs(found[1]).max() > 1e-6
    np.testing.assert_array_equal(found[np.array([0, 2])], 0)


def test_contexts_of_other_classes_than_those_trained_on_are_refused():
    module, params = model(VitaCLIP(FRAMES, text_prompts=2, classes=5))
    with pytest.raises(ValueError, match="is for 5 classes, but 3 are trained on: set its option"):
        TASK.initial_state(module, params, {})


def test_evaluations_know_classes_by_their_names():
    module = SimpleNamespace(known_classes=3)
    predictor = SimpleNamespace(module=module, trained_classes=("run", "jump", "swim"))
    np.testing.assert_array_equal(_known(predictor, ["swim", "run"], 2), [2, 2, 0, 0])
    assert _known(predictor, ["swim", "fly"], 1) is None
    module.known_classes = 0
    assert _known(predictor, ["swim", "run"], 1) is None


def test_texts_of_classes_are_kept_before_training():
    module, params = model(MoTE(layers=1, experts=2, heads=2, classes=C))
    found = jax.jit(lambda p: TASK.initial_params(module, p)["mote"]["classes"])(params)
    encode = jax.jit(lambda p: module.apply({"params": p}, IDS, method="encode_text")[0])
    text = encode(params)
    np.testing.assert_allclose(found, text, atol=1e-6)
    plain, leaves = model()
    assert TASK.initial_params(plain, leaves) is leaves


FILES = {
    "s.json": {"0": ["a pool", "water"], "1": ["a track", "grass"]},
    "t.json": {"0": ["she dives", "she swims"], "1": ["he starts", "he runs"]},
    "few.json": {"0": ["she dives", "she swims"], "1": ["he starts"]},
}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def section(folder, *files, templates=("{} is seen", "In {class}, {}")):
    return {"sentences": [f"{folder}/{f}" for f in files], "sentence_templates": templates}


def test_sentences_stand_by_class_and_kind_in_their_templates(folder):
    found = read_sentences(section(folder, "s.json", "t.json"), ["swim", "run"])
    assert found[:4] == [
        "a pool is seen", "water is seen", "In swim, she dives", "In swim, she swims",
    ]  # fmt: skip
    assert found[6] == "In run, he starts" and len(found) == 8


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (("s.json", "few.json"), {}, "few.json, class run: 1 sentences, where swim has 2 in"),
        (("s.json", "absent.json"), {}, "absent.json"),
        (("s.json",), {}, "task.sentence_templates are 2 for 1 files of task.sentences; each kind"),
        (("s.json",), {"templates": ("x",)}, "'x' must have one {}, where the sentence stands"),
    ],
)
def test_sentences_that_cannot_be_used(folder, files, options, message):
    with pytest.raises((ValueError, DescriptionError), match=message):
        read_sentences(section(folder, *files, **options), ["swim", "run"], "task.")
