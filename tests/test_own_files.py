"""Video files in the Python interface: read as the model's evaluation reads them."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from video_files import write_tricky

import vlt
from configs import common
from vlt.configuration import save_run
from vlt.data import moving_shapes
from vlt.data.manifests.resources import resolve
from vlt.data.pipeline import videos_of
from vlt.data.text.tokenize import Tokenizer
from vlt.data.video.clips import ClipRequest, DecoderPool, read_clip
from vlt.data.video.decode import Video
from vlt.data.video.errors import CannotOpen, Truncated
from vlt.data.video.sample import sample
from vlt.data.video.transform import apply_transform
from vlt.evaluation.predictor import Predictor
from vlt.evaluation.retrieval import embed_videos
from vlt.export import export, trained_model
from vlt.inference.prefetch import clip_request
from vlt.model_io.folder import ModelFolderError
from vlt.model_io.loading import load_model
from vlt.model_io.view import View
from vlt.runtime.mesh import make_mesh
from vlt.training.checkpoints import TrainingCheckpoints
from vlt.training.rules import partition

TEMPME = {"layers": (2, 3), "join": (2, 2), "r": 1, "keep_cross": 70, "keep_intra": 90}
# Differs from what a folder without a view gives, and from the size of the clips.
STEPS = {"resize": 48, "crop": 32}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return moving_shapes.generate(tmp_path_factory.mktemp("shapes") / "test", 2)


@pytest.fixture(scope="module")
def files(manifest):
    rows = map(json.loads, manifest.read_text().splitlines())
    return [str(manifest.parent / row["video"]) for row in rows]


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    """A run of TempMe with shifted clip positions, and its config with two evaluations."""
    config = common.base()
    config.model.update(checkpoint="tiny_clip", context=16, frames=4, frame_norm=True)
    config.model.update(methods=("tempme",), tempme=TEMPME)
    config.rules = ((".*/clip_position", {"lr": 1.0}), (".*", "frozen"))
    data = common.videos(str(manifest), "linspace", 4, 4, transform=STEPS)
    config.evals = {
        "draws": common.retrieval("own_data", common.videos(str(manifest), "random_frames", 4, 4)),
        "shapes": common.retrieval("own_data", data),
    }
    workdir = tmp_path_factory.mktemp("run")
    save_run(workdir, config)
    leaves, _ = partition(load_model(config.model, 0).params, config.rules)
    checkpoints = TrainingCheckpoints(workdir, 1)
    checkpoints.save(3, {"trained": jax.tree.map(lambda x: x + 0.5, leaves)}, {})
    checkpoints.close()
    return workdir, config


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(run[0], folder, "orbax")
    return folder


@pytest.fixture(scope="module")
def model(exported):
    return vlt.load(exported)


def evaluated(run, tmp_path):
    """Embeddings of the run's evaluation, in the order of its manifest."""
    workdir, config = run
    loaded = trained_model(workdir)
    tokenizer = Tokenizer.load(loaded.tokenizer, 16)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    predictor = Predictor(loaded.module, mesh, tokenizer, tmp_path)
    with DecoderPool(0) as pool:
        data = videos_of(
            config.evals.shapes, mesh, tokenizer, pool, name="shapes", workdir=tmp_path
        )
        return embed_videos(predictor, loaded.params, data, 0)[1]


@pytest.mark.smoke
def test_embeddings_of_files_are_those_of_the_evaluation(run, model, files, tmp_path):
    """With the sampler, frames, transform and mean of frames that the folder records."""
    assert model.config.view == View("linspace", 4, 48, 32, "bicubic")
    expected = evaluated(run, tmp_path)
    np.testing.assert_allclose(model.encode_video(files), expected, atol=1e-6)
    np.testing.assert_allclose(model.encode_video(model.read_videos(files)), expected, atol=1e-6)
    others = model.encode_video(model.read_videos(files, sampler="segment_centre"))
    assert np.abs(others - expected).max() > 1e-3


def test_what_is_read_of_a_file_may_be_chosen(model, files):
    steps = STEPS | {"interpolation": "bicubic"}
    np.testing.assert_array_equal(
        model.read_videos(files[:2]),
        [read_clip(ClipRequest(path, "linspace", 4, steps)) for path in files[:2]],
    )
    plain = vlt.load("tiny_clip")
    assert plain.read_videos(files[0]).shape == (1, 8, 32, 32, 3)
    found = plain.read_videos(np.array(files[:2]), frames=3, sampler="segment_middle")
    square = {"resize": 32, "crop": 32, "interpolation": "bicubic"}
    np.testing.assert_array_equal(
        found, [read_clip(ClipRequest(path, "segment_middle", 3, square)) for path in files[:2]]
    )
    with pytest.raises(ValueError, match="8 frames, but .*clip_position .* trained on 4 frames"):
        model.read_videos(files, frames=8)
    for frames in (0, 2.0, True):
        with pytest.raises(ValueError, match=f"frames must be a whole number >= 1, got {frames}"):
            plain.read_videos(files, frames=frames)
    with pytest.raises(ValueError, match="unknown sampler 'linespace' .did you mean 'linspace'"):
        plain.read_videos(files, sampler="linespace")
    for wrong in (None, [], 3, np.zeros((1, 8, 32, 32, 3), np.uint8)):
        with pytest.raises(ValueError, match="must be the path of a video file, or several"):
            plain.read_videos(wrong)


def test_a_file_that_cannot_be_read_is_named(model, files, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    with pytest.raises(CannotOpen, match=f"{broken}: "):
        model.encode_video(broken)
    with pytest.raises(CannotOpen, match=f"{tmp_path}/absent.mov: "):
        model.read_videos([*files, tmp_path / "absent.mov"])
    with pytest.raises(ValueError, match="None among paths of videos"):
        model.encode_video([files[0], None])


def test_what_is_left_of_a_damaged_file_is_read_where_that_is_asked_for(files, tmp_path):
    model, cut = vlt.load("tiny_clip"), tmp_path / "cut.mov"
    cut.write_bytes(pathlib.Path(write_tricky(tmp_path, "transport.ts")).read_bytes()[:20_000])
    with pytest.raises(Truncated, match=f"{cut}: "):
        model.encode_video(cut)
    model.config = model.looking_at(allow_truncated=True)
    with Video(cut, allow_truncated=True) as video:
        frames = video.read(range(len(video)))
    whole = apply_transform(clip_request(model.config, "").transform, frames, 0)
    rng = np.random.default_rng(0)
    chosen = sample(model.config.view.sampler, len(frames), 8, rng=rng)
    np.testing.assert_array_equal(model.read_videos(cut)[0], whole[chosen])
    assert model.config.to_dict()["view"]["allow_truncated"] is True
    assert "allow_truncated" not in vlt.load("tiny_clip").config.to_dict()["view"]


@pytest.mark.slow
def test_captions_of_files_are_those_of_their_frames(files):
    captioner = vlt.load("tiny_blip", frames=8)
    expected = captioner.generate(captioner.read_videos(files), beams=1)
    assert captioner.generate(files, beams=1) == expected and len(set(expected)) > 1


VIDEO = np.random.default_rng(0).integers(0, 255, (2, 4, 32, 32, 3), np.uint8)


def test_a_model_may_be_loaded_otherwise_than_its_folder_says(caplog):
    caplog.set_level("WARNING", logger="absl")  # whatever a command has set
    plain = vlt.load("tiny_clip")
    model = vlt.load("tiny_clip", frames=4, frame_norm=True, methods={"tome": {"r": 2}})
    assert (model.module.frames, model.module.frame_norm, model.module.methods[0].r) == (4, True, 2)
    assert (model.config.view.frames, model.config.view.sampler) == (4, "linspace")
    module = plain.module.clone(frame_norm=True, methods=model.module.methods)
    encode = jax.jit(lambda params: module.apply({"params": params}, VIDEO, method="encode_video"))
    expected = encode(plain.params)[0]
    np.testing.assert_allclose(model.encode_video(VIDEO), expected, atol=1e-6)
    assert np.abs(plain.encode_video(VIDEO) - expected).max() > 1e-3
    assert not caplog.records
    vlt.load("tiny_clip", methods=("lora",))
    assert "as training starts: text/blocks/attention/key/lora_b" in caplog.text


def test_activations_may_be_of_half_the_size():
    half = vlt.load("tiny_clip", dtype="bfloat16")
    found, expected = (m.encode_video(VIDEO) for m in (half, vlt.load("tiny_clip")))
    assert 1e-5 < np.abs(found - expected).max() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames must be a whole number >= 1, got 0"),
        ({"frame_norm": "yes"}, "frame_norm must be True or False, got 'yes'"),
        ({"methods": "tome"}, "model.methods must be names of methods.*'tome'"),
        ({"methods": ("tom",)}, "'tom' .did you mean 'tome'"),
        ({"methods": {"tome": {"rr": 3}}}, "'tome' has no option 'rr' .did you mean 'r'"),
        ({"dtype": "float16"}, "unknown model.dtype: 'float16' .*'float32'"),
    ],
)
def test_what_a_model_cannot_be_loaded_as_is_a_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        vlt.load("tiny_clip", **options)


def test_leaves_for_other_frames_are_named(exported):
    with pytest.raises(ModelFolderError, match=r"for frames=4 .*\n +visual/.*clip_position: \[4"):
        vlt.load(exported, frames=8)


def test_a_folder_of_before_has_no_view(tmp_path):
    shutil.copytree(resolve("tiny_clip"), tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    fields = json.loads(path.read_text())
    del fields["view"]
    path.write_text(json.dumps(fields))
    assert vlt.load(tmp_path / "old").config.view == View()
    for change, message in (
        (
            {"sampler": "random_frames"},
            "view.sampler must be a sampler that draws nothing at random, got 'random_frames'",
        ),
        ({"sampler": "x"}, "unknown sampler 'x'"),
        ({"frames": 0}, "view.frames must be between 1 and .*, got 0"),
        ({"resize": 48}, "view.resize=48, view.crop=None: the tower takes frames of 32"),
        ({"resize": [32, 10**9], "crop": 32}, "view.resize must be between 1 and 4096, got"),
        ({"crop": "32"}, "config.view.crop must be a whole number or null, got '32'"),
        ({"interpolation": "best"}, "view.interpolation='best'"),
    ):
        path.write_text(json.dumps(fields | {"view": change}))
        with pytest.raises(ModelFolderError, match=message):
            vlt.load(tmp_path / "old")
