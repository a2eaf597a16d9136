"""Video features written to files by a small LLaVA."""

import datetime
import json
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

import vlt
from data_pipelines import features
from data_pipelines.features import cache_features, main
from vlt.data import moving_shapes
from vlt.data.manifests.features import FeatureError, read_features, write_features
from vlt.data.manifests.manifest import ManifestError, read_manifest
from vlt.model_io.folder import ModelConfig, write_model_folder

sys.path.append(str(ROOT / "tests" / "models"))
from golden_chat import Golden

PIXELS = {"image_size": 56, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "bicubic"}


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    golden = Golden(shared / "golden/chat", "llava")
    config = ModelConfig("llava", golden.spec, {}, PIXELS | {"crop": "none"}, frames=3)
    path = tmp_path_factory.mktemp("model") / "llava"
    write_model_folder(path, config, golden.plain(), shared / "golden/chat/tokenizer")
    return str(path)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """A manifest of two videos, one of them in two rows, a broken one, and one of another sum."""
    made = moving_shapes.generate(tmp_path_factory.mktemp("shapes") / "train", 2)
    videos = [record.video for record in read_manifest(made)][:2]
    (made.parent / "broken.mp4").write_text("no video\n")
    shutil.copy(videos[0], made.parent / "changed.mp4")
    rows = [{"video": v, "id": n, "conversations": [["What?", "It."]]}
            for n, v in enumerate([*videos, videos[0], "broken.mp4", "changed.mp4"])]  # fmt: skip
    rows[-1]["sha256"] = "0" * 64
    path = made.parent / "dialogues.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def made(folder, manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("features")
    written, broken = cache_features(manifest, folder, out)
    assert written == 2
    assert [path.rpartition("/")[2] for path in broken] == ["broken.mp4", "changed.mp4"]
    return out


@pytest.mark.slow
def test_rows_name_the_features_from_which_the_model_goes_on(folder, made):
    records = read_manifest(made / "manifest.jsonl")
    assert [record.id for record in records] == ["0", "1", "2"] and records[0].turns
    files = [record.extra["features"] for record in records]
    assert files[0] == files[2] != files[1] and len(list(made.glob("*.npz"))) == 2
    found = read_features(made / files[0])
    assert found.shape == (3, 17, 48) and found.dtype == np.float16
    model = vlt.load(folder)
    video = model.read_videos(records[0].video)
    encode = jax.jit(lambda p, x: model.module.apply({"params": p}, x, method="encode_video")[0])
    whole, cached = (
        encode(model.params, jnp.asarray(x)) for x in (video, found[None].astype(np.float32))
    )
    np.testing.assert_allclose(cached, whole, atol=0.02 * float(jnp.abs(whole).max()))
    broken, changed = [json.loads(line) for line in (made / "broken.jsonl").open()]
    assert broken["video"].endswith("broken.mp4") and broken["error"]
    assert changed["video"].endswith("changed.mp4") and "its sha256 is" in changed["error"]


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_stopped(folder, manifest, made, capsys):
    first, second = sorted(made.glob("*.npz"))
    before = second.stat().st_mtime_ns
    first.unlink()
    assert main([str(manifest), "--model", folder, "--out", str(made)]) == 1
    told = capsys.readouterr()
    assert "3 of 4 videos are read" in told.out and "broken.mp4" in told.err
    assert first.exists() and second.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_folder_of_other_features_is_refused(folder, manifest, made, capsys):
    assert main([str(manifest), "--model", folder, "--out", str(made), "--frames", "4"]) == 2
    assert "features.json is of others (shape differ)" in capsys.readouterr().err


def test_another_kind_of_model_is_refused(manifest, tmp_path):
    with pytest.raises(FeatureError, match="tiny_clip is a dual_encoder, no chat model"):
        cache_features(manifest, "tiny_clip", tmp_path)


def test_rows_are_looked_at_before_the_model(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"video": ["a.mp4"], "caption": ["x"], "when": [datetime.datetime(2020, 1, 1)]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="line 1: `when` is datetime: .*JSON cannot hold"):
        cache_features(tmp_path / "m.parquet", "tiny_clip", tmp_path / "out")


def test_long_names_and_folders_that_are_links(tmp_path):
    for folder in ("disk/lists", "disk/deep/out"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lists").symlink_to(tmp_path / "disk/lists")
    (tmp_path / "out").symlink_to(tmp_path / "disk/deep/out")
    video = tmp_path / f"disk/{'視' * 75}.mp4"
    video.touch()
    out, row = tmp_path / "out", {"video": f"../{video.name}", "caption": "x"}
    file = features._file(out, str(video), tmp_path)
    write_features(file, np.ones((2, 3, 4)))
    features._write_manifest(tmp_path / "lists/m.jsonl", out, [row], [file.name])
    [record] = read_manifest(out / "manifest.jsonl")  # its video exists
    assert read_features(out / record.extra["features"]).shape == (2, 3, 4)


def test_files_that_are_no_features(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(FeatureError, match="cannot be read as .npz: .*No such file"):
        read_features(path)
    write_features(path, np.ones((2, 3, 4)))
    assert read_features(path).shape == (2, 3, 4)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FeatureError, match="cannot be read as .npz"):
        read_features(path)
    for content, reason in (
        ({"other": np.ones(3)}, "no .npz file with an array `features`"),
        ({"features": np.ones((2, 3, 4))}, r"must be float16 \[t, n, d\], is float64 \[2, 3, 4\]"),
        ({"features": np.ones(3, np.float16)}, r"is float16 \[3\]"),
        ({"features": np.full((1, 1, 1), np.nan, np.float16)}, "is not finite"),
        ({"features": np.array([print], object)}, "cannot be read as .npz: Object arrays"),
    ):
        np.savez(path, **content)
        with pytest.raises(FeatureError, match=reason):
            read_features(path)
    np.save(tmp_path / "b.npy", np.ones(3))
    with pytest.raises(FeatureError, match="no .npz file"):
        read_features(tmp_path / "b.npy")
    with pytest.raises(FeatureError, match="too large for 16 bits"):
        write_features(tmp_path / "c.npz", np.full((1, 1, 1), 1e6))
    assert not (tmp_path / "c.npz").exists()
