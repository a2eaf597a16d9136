"""Models of this package in MTEB, whose own evaluator agrees with ours."""

import json
import types

import numpy as np
import pytest
from PIL import Image

import vlt
from vlt.data import moving_shapes
from vlt.mteb_encoder import Encoder
from vlt.tasks.retrieval_metrics import retrieval_metrics

PAIRS = 12  # of clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """{file: caption} of moving shapes, no two captions alike."""
    manifest = moving_shapes.generate(tmp_path_factory.mktemp("shapes") / "clips", PAIRS)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    found = {row["caption"]: str(manifest.parent / row["video"]) for row in rows}
    return {file: caption for caption, file in found.items()}


@pytest.fixture(scope="module")
def encoder():
    """An encoder that sees time: a clip and its twin, which runs backwards, never score equally."""
    return Encoder("tiny_viclip", frames=4)


@pytest.mark.slow
def test_a_video_is_the_same_as_a_file_as_bytes_decoded_or_in_full(clips, encoder):
    files = [*clips][:2]
    expected = encoder.model.encode_video(files)
    stored = [{"path": "a.mov", "bytes": open(file, "rb").read()} for file in files]  # noqa: SIM115
    every = encoder.model.read_videos(files, frames=moving_shapes.CLIP_FRAMES, sampler="linspace")

    def decoder(frames):
        """A decoder like torchcodec's: channels first, frames chosen by index."""
        data = types.SimpleNamespace(num_frames=len(frames), average_fps=8.0)
        chosen = lambda indices: types.SimpleNamespace(data=np.moveaxis(frames[indices], -1, 1))  # noqa: E731
        return types.SimpleNamespace(metadata=data, get_frames_at=chosen)

    for videos in (
        files,
        [{"path": file, "bytes": None} for file in files],
        stored,
        [*every],
        [np.moveaxis(video, -1, 1) for video in every],
        [decoder(video) for video in every],
    ):
        (found,) = [encoder.encode([{"video": videos, "id": ["0", "1"]}])]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    picture = Image.fromarray(every[0][0])
    still = encoder.model.encode_video(np.stack([every[0][:1].repeat(4, 0)]))
    np.testing.assert_allclose(encoder.encode([{"image": [picture]}]), still, atol=1e-6)


def test_what_has_no_vector_is_refused(encoder):
    for batch, message in (
        ({"text": ["a"], "video": ["b"]}, "a batch of text and video"),
        ({"audio": [0]}, "a batch of audio"),
        ({"video": [np.zeros((4, 32, 32, 3), np.float32)]}, r"frames are float32\[4, 32, 32, 3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.encode([batch])
    with pytest.raises(ValueError, match="VideoCaptioner has no embeddings"):
        Encoder("tiny_blip")


@pytest.mark.slow
def test_mtebs_evaluator_says_what_ours_says(clips, encoder, tmp_path):
    mteb = pytest.importorskip("mteb", reason="needs the extra mteb")
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

    files, captions = [*clips], [*clips.values()]
    ids = [str(i) for i in range(len(files))]
    videos = [{"path": file, "bytes": None} for file in files]
    columns = {"text": captions, "video": videos}

    def task(name, query, document):
        class Task(AbsTaskRetrieval):
            metadata = mteb.TaskMetadata(
                name=name,
                description="Moving shapes",
                dataset={"path": "moving/shapes", "revision": "1"},
                type="Any2AnyRetrieval",
                category={"text": "t2v", "video": "v2t"}[query],
                modalities=["text", "video"],
                eval_langs=["eng-Latn"],
                eval_splits=["test"],
                main_score="recall_at_1",
                license="apache-2.0",
            )

            def load_data(self, **kwargs):
                queries = Dataset.from_dict({"id": ids, query: columns[query]})
                corpus = Dataset.from_dict({"id": ids, document: columns[document]})
                split = RetrievalSplitData(
                    queries=queries,
                    corpus=corpus,
                    relevant_docs={i: {i: 1} for i in ids},
                    top_ranked=None,
                )
                self.dataset, self.data_loaded = {"default": {"test": split}}, True

        return Task()

    pair = task("ShapesT2V", "text", "video"), task("ShapesV2T", "video", "text")
    options = {"cache": None, "show_progress_bar": False}
    results = mteb.evaluate(encoder, [*pair], **options)
    scores = np.asarray(encoder.model.scores(files, captions))
    ours = retrieval_metrics(scores.T, np.arange(len(files)))
    for result, direction in zip(results.task_results, ("t2v", "v2t"), strict=True):
        (theirs,) = result.scores["test"]
        for k in (1, 5, 10):
            expected = ours[f"{direction}_R@{k}"] / 100
            assert theirs[f"recall_at_{k}"] == pytest.approx(expected, abs=1e-5), k
    texts, seen = encoder.encode([{"text": captions}]), encoder.encode([{"video": files}])
    np.testing.assert_allclose(encoder.similarity(texts, seen), scores.T, atol=1e-6)
    np.testing.assert_allclose(
        encoder.similarity_pairwise(texts, seen), scores.diagonal(), atol=1e-6
    )
    assert encoder.mteb_model_meta.embed_dim == 64
    assert vlt.load("tiny_viclip").fingerprint == encoder.mteb_model_meta.revision
