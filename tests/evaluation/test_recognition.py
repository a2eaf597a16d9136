"""Recognition equals plain numpy view by view, on any devices; and the files it writes."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from evaluated import Words, clip, data, predictor
from helpers import run_python
from PIL import Image

from vlt.adapters.ost import OST
from vlt.data.manifests.manifest import read_manifest
from vlt.data.manifests.resources import ASSETS, resolve
from vlt.data.pipeline import VideoData
from vlt.data.text.tokenize import Tokenizer
from vlt.data.video.clips import ClipRequest, DecoderPool, read_clip
from vlt.evaluation import Evaluator, recognition
from vlt.evaluation.protocols import ProtocolError
from vlt.evaluation.recognition_protocols import RECOGNITION_PROTOCOLS, RecognitionProtocol, Views
from vlt.evaluation.retrieval import embed_texts
from vlt.model_io.build import abstract_params
from vlt.models.dual_encoder import DualEncoder
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.runtime.mesh import make_mesh
from vlt.tasks.templates import read_templates

SPEC = DualEncoderSpec(VisionSpec(8, 4, 16, 1, 2, 32), TextSpec(6, 30, 16, 1, 2, 32), embed_dim=8)
CLASSES = ["23 4", "15", "16 27", "9", "20 3", "11", "12 19"]
SECTION = {"protocol": "own_data", "allow_subset": False, "template": "{}", "templates": ""}
SECTION |= {"combine": "cosines", "scale": 0.0}
SECTION |= {"sentences": (), "sentence_templates": ()}
SECTION |= {"sampler": {"name": "segment_centre", "frames": 2, "clips": 1}}
TEMPLATES = ["{} 3", "8 {}", "7 {} 5"]
VIDEOS, UNREAD = 21, 4  # three batches of eight, the last one partial


def model() -> DualEncoder:
    return DualEncoder(SPEC)


def params():
    """Random kernels, so that videos differ, and a logit scale above the allowed maximum."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("bias", "scale"):
            return np.full(leaf.shape, path[-1].key == "scale", np.float32)
        return rng.normal(scale=0.7, size=leaf.shape).astype(np.float32)

    tree = jax.tree_util.tree_map_with_path(draw, abstract_params(model()))
    return tree | {"logit_scale": np.float32(5.0)}


def labelled(views: int = 1):
    """Records of known classes; the last class has no video, and one video cannot be read."""
    labels = np.random.default_rng(3).integers(0, len(CLASSES) - 1, VIDEOS).astype(np.int32)
    rows = [
        SimpleNamespace(video=f"clip {i}", label=CLASSES[label], line=i + 1)
        for i, label in enumerate(labels)
    ]
    found = data(rows, (UNREAD,))
    vars(found).update(labels=labels, classes=CLASSES, views=views)
    return found


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return predictor(model(), tmp_path_factory.mktemp("run")), params()


@pytest.fixture(scope="module")
def encode(parts):
    """encode("video" or "text", one input) -> its unit vector, one at a time."""
    module, tree = parts[0].module, parts[1]
    programs = {
        name: jax.jit(lambda p, x, m=f"encode_{name}": module.apply({"params": p}, x, method=m)[0])
        for name in ("video", "text")
    }
    return lambda name, x: np.asarray(programs[name](tree, x[None]))[0].astype(np.float64)


@pytest.fixture
def seen(monkeypatch):
    """Scores [b, c] of each batch, as passed to the metrics."""
    found: list[np.ndarray] = []
    score = recognition.view_scores
    monkeypatch.setattr(
        recognition, "view_scores", lambda *given: found.append(score(*given)) or found[-1]
    )
    return found


def probabilities(encode, views, templates) -> np.ndarray:
    """Sum over views (clips) of the softmax over classes, step by step."""
    total = np.zeros(len(CLASSES))
    for view in views:
        video = encode("video", view)
        logits = []
        for name in CLASSES:
            texts = Words()([template.replace("{}", name) for template in templates])
            logits.append(100 * np.mean([video @ encode("text", ids) for ids in texts]))
        odds = np.exp(np.array(logits) - max(logits))
        total += odds / odds.sum()
    return total


def plain_metrics(scores, labels) -> dict[str, float]:
    order = [sorted(range(len(row)), key=lambda c, row=row: -row[c]) for row in scores]
    first = np.array([found[0] == label for found, label in zip(order, labels, strict=True)])
    fifth = [label in found[:5] for found, label in zip(order, labels, strict=True)]
    own = [first[np.array(labels) == label].mean() for label in set(labels)]
    return {
        "top1": 100 * first.mean(),
        "top5": 100 * np.mean(fifth),
        "mean_class": 100 * np.mean(own),
    }


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("several", [False, True])
def test_metrics_are_those_of_plain_numpy(parts, encode, seen, tmp_path, views, several):
    """Clips have two frames: one view of both, or two views of one each."""
    section, templates = SECTION, ["{}"]
    if several:
        (tmp_path / "t.txt").write_text("\n".join(TEMPLATES) + "\n\n")
        section, templates = SECTION | {"templates": str(tmp_path / "t.txt")}, TEMPLATES
    rows = labelled(views)
    found = recognition.recognition(*parts, section, rows, 0)
    kept = [i for i in range(VIDEOS) if i != UNREAD]
    clips = [clip(rows.records[i].video) for i in kept]
    scores = [probabilities(encode, c.reshape(views, -1, *c.shape[1:]), templates) for c in clips]
    np.testing.assert_allclose(np.concatenate(seen), scores, atol=2e-5)
    labels = rows.labels[kept].tolist()
    expected = plain_metrics(scores, labels) | {"classes": 7, "videos": 20, "protocol": "own_data"}
    assert found == pytest.approx(expected)
    assert 0 < found["top1"] < 100 and found["top1"] != found["mean_class"]


def test_scores_of_views_are_their_sum_and_do_not_underflow():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3 + 2 * 4, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts, views = vectors[:3], vectors[3:].reshape(2, 4, 8)
    cosines = views @ texts.T
    whole = recognition.view_scores(cosines, 100.0)
    single = [recognition.view_scores(cosines[:, i : i + 1], 100.0) for i in range(4)]
    np.testing.assert_allclose(whole, np.sum(single, 0), rtol=1e-12)
    np.testing.assert_allclose(whole.sum(-1), 4)
    # Cosines 1 and -1: logits 200 apart, which float32 would round to 0, like all unlikely classes.
    far = recognition.view_scores(np.array([[[1.0, -1, -0.99]]]), 100.0)
    assert 0 < far[0, 1] < far[0, 2] < far[0, 0]


@pytest.fixture
def files(tmp_path):
    """A folder with a manifest of five real videos, 32 x 32, and the list of classes."""
    clips = read_manifest(resolve("moving_shapes:clips:train:3"))[:5]
    rows = [{"video": clip.video, "label": CLASSES[i % 3]} for i, clip in enumerate(clips)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return tmp_path


def section_of(files: Path, **changes):
    section = SECTION | {
        "kind": "recognition", "manifest": str(files / "manifest.jsonl"), "batch_size": 2,
        "classes": str(files / "classes.txt"), "transform": {}, "captions": ("caption",),
        "clean": "", "max_words": 0, "prefix": "", "group": "", "cache": False,
        "on_error": "raise", "max_error_rate": 0.0, "allow_truncated": False, "backend": "pyav",
    }  # fmt: skip
    return section | changes


@pytest.mark.parametrize("sampler", ["segment_centre", "random_segments"])
def test_clips_and_crops_of_files_are_views(parts, encode, seen, files, monkeypatch, sampler):
    """2 x 3 views of 2 frames, from even or random clips, score as the sum over single views."""
    requests = []

    def kept(request):
        requests.append(request)
        return read_clip(request)

    pool = DecoderPool(0)
    monkeypatch.setattr(pool, "read", kept)
    chosen = {"name": sampler, "frames": 2, "clips": 2}
    resize = {"resize": (8, 16)}
    section = section_of(files, sampler=chosen, transform=resize | {"three_crops": 8})
    rows = VideoData(section, Words(), pool, name="files", workdir=parts[0].workdir)
    found = recognition.recognition(*parts, section, rows, 0)
    requests.sort(key=lambda request: request.path)
    assert len(requests) == 5 and found["videos"] == 5
    expected = []
    for request in requests:
        whole = ClipRequest(request.path, sampler, 2, resize, request.seed, clips=2)
        clips = read_clip(whole).reshape(2, 2, 8, 16, 3)
        views = [c[:, :, left : left + 8] for c in clips for left in (0, 4, 8)]
        expected.append(probabilities(encode, views, ["{}"]))
    np.testing.assert_allclose(np.concatenate(seen), expected, atol=2e-5)
    assert found["protocol"] == "own_data"


def test_classes_and_confusion_are_written(parts):
    found = recognition.recognition(*parts, SECTION, labelled(), 0)
    lines = (parts[0].workdir / "classes-test.txt").read_text().splitlines()
    assert lines[0].split("  ")[0] == "class" and "mostly taken for" in lines[0]
    assert len(lines) == 2 + len(CLASSES) and lines[-1].startswith("12 19")
    with Image.open(parts[0].workdir / "confusion-test.png") as picture:
        assert picture.size[0] > 300
    assert found["classes"] == 7


@pytest.fixture
def protocol(monkeypatch):
    def named(**fields):
        entry = RecognitionProtocol(
            "five", **{"videos": 21, "classes": 7, "source": "here"} | fields
        )
        monkeypatch.setitem(RECOGNITION_PROTOCOLS, entry.name, entry)
        return SECTION | {"protocol": "five"}

    return named


def test_protocol_is_checked_and_told(parts, protocol):
    rows = labelled()
    with pytest.raises(ProtocolError, match="five.*21 videos instead of 22"):
        recognition.recognition(*parts, protocol(videos=22), rows, 0)
    section = protocol(videos=22) | {"allow_subset": True}
    label = recognition.recognition(*parts, section, rows, 0)["protocol"]
    assert label == "five [subset: 21 of 22 videos]"
    with pytest.raises(ProtocolError, match="'six' is not one of"):
        recognition.recognition(*parts, SECTION | {"protocol": "six"}, rows, 0)


def test_other_views_than_the_protocols_are_told(parts, protocol):
    section = protocol(views=Views(4, 3, "random")) | {"allow_subset": True}
    label = recognition.recognition(*parts, section, labelled(), 0)["protocol"]
    assert label == "five [1 even x 1 views instead of 4 random x 3 views]"
    section |= {"sampler": {"name": "random_segments", "frames": 1, "clips": 2}}
    label = recognition.recognition(*parts, section, labelled(2), 0)["protocol"]
    assert label.endswith("[2 random x 1 views instead of 4 random x 3 views]")
    section = protocol(views=Views(2, 1, "random")) | section
    assert recognition.recognition(*parts, section, labelled(2), 0)["protocol"] == "five"
    one = {"name": "segment_centre", "frames": 2}
    section = protocol() | {"allow_subset": True, "sampler": one}
    assert recognition.recognition(*parts, section, labelled(), 0)["protocol"] == "five"


def test_templates_without_a_place_for_the_class(parts, tmp_path):
    def evaluate(**changes):
        recognition.recognition(*parts, SECTION | changes, labelled(), 0)

    with pytest.raises(ValueError, match="template: 'a video' must have one {}"):
        evaluate(template="a video")
    path = tmp_path / "t.txt"
    path.write_text("{} 3\n\na {cls}\n")
    with pytest.raises(ValueError, match=r"t.txt, line 3: 'a {cls}' must have one {}"):
        evaluate(templates=str(path))
    path.write_text("\n")
    with pytest.raises(ValueError, match="t.txt holds no template"):
        evaluate(templates=str(path))
    with pytest.raises(ValueError, match="there is no file .*none.txt"):
        evaluate(templates=str(tmp_path / "none.txt"))


def test_packaged_templates_can_be_read():
    listed = read_templates({"templates": "action_templates.txt"})
    assert len(listed) == len(set(listed)) >= 8
    assert resolve("action_templates.txt").is_file()


def test_texts_that_do_not_tell_classes_are_refused_before_anything_is_looked_at(parts, files):
    """Even in an evaluation on videos that nothing was trained on."""
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    words = Tokenizer.load(ASSETS / "tiny_clip/tokenizer", SPEC.text.context)

    def refused(*names, **changes):
        (files / "classes.txt").write_text("\n".join((*CLASSES, *names)) + "\n")
        sections = {"r": section_of(files, template="{}") | changes}
        with pytest.raises(ValueError, match="^evals.r: ") as told:
            Evaluator(sections, parts[0].module, mesh, words, DecoderPool(0), files)
        return str(told.value)

    assert "'red red red red red red', has 8 tokens by itself; a text has 6" in refused("red " * 6)
    same = refused("red", "blue", template="red red red red {}")
    assert "'23 4' and '15' are the same once they are cut to 6 tokens" in same
    told = {"sentence_templates": ("{}",), "sentences": (str(files / "s.json"),)}
    listed = {str(index): ["3"] for index in range(len(CLASSES))}
    (files / "s.json").write_text(json.dumps(listed))
    assert "sentences name 1 kinds, and no method of the model reads them" in refused(**told)


@pytest.mark.slow
def test_sentences_describe_classes_to_a_model_that_reads_them(tmp_path):
    given = predictor(model().clone(methods=(OST(),)), tmp_path), params()
    files = []
    for kind in (3, 5):
        told = {str(i): [f"{kind} {i}", str(kind + i)] for i in range(len(CLASSES))}
        files.append(tmp_path / f"{kind}.json")
        files[-1].write_text(json.dumps(told))
    named = {"sentences": [*map(str, files)], "sentence_templates": ("{}", "{class} {}")}
    texts = recognition.embed_sentences(*given, CLASSES, SECTION | named)["sentences"]
    assert texts.shape == (len(CLASSES), 2, 2, SPEC.embed_dim)
    alone = embed_texts(*given, ["3 2", "16 27 7"])["features"]
    np.testing.assert_allclose(texts[2][[0, 1], [0, 1]], alone, rtol=1e-4, atol=1e-5)
    found = recognition.recognition(*given, SECTION | named, labelled(), 0)
    assert found["videos"] == VIDEOS - 1 and 0 < found["top5"] <= 100


def test_rows_without_labels(parts):
    rows = labelled()
    rows.labels, rows.manifest = None, "m.jsonl"
    with pytest.raises(ValueError, match="recognition needs a column `label` in m.js"):
        recognition.recognition(*parts, SECTION, rows, 0)


def test_several_views_are_refused_where_one_is_looked_at(parts, files):
    given = SECTION["sampler"] | {"clips": 4}
    section = section_of(files, sampler=given, kind="retrieval", ties="against")
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    with pytest.raises(ValueError, match="evals.r: retrieval takes one view, not 4"):
        Evaluator({"r": section}, parts[0].module, mesh, Words(), DecoderPool(0), files)


DEVICES = """
    import json, sys
    from pathlib import Path
    from evaluated import predictor
    import test_recognition as here
    from vlt.evaluation import recognition
    for devices in (1, 8):
        parts = predictor(here.model(), Path(sys.argv[1]), devices), here.params()
        print(json.dumps(recognition.recognition(*parts, here.SECTION, here.labelled(2), 0)))
"""


def test_one_device_and_eight_find_the_same(tmp_path):
    one, eight = map(json.loads, run_python(DEVICES, tmp_path, devices=8).splitlines())
    assert one == eight and one["videos"] == 20
