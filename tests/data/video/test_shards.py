"""Reading shards: the same samples as from files and originals, and broken shards."""

import io
import json
import shutil
import struct

import msgpack
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from shard_folders import FPS, forge, make, read_lines, write_rows, write_videos

from configs.common import videos as data_section
from data_pipelines.shards.encode import Clips, Frames
from vlt.data import moving_shapes
from vlt.data.manifests.manifest import ManifestError, read_manifest
from vlt.data.pipeline import VideoData
from vlt.data.text.tokenize import Tokenizer
from vlt.data.video import shards
from vlt.data.video.clips import ClipRequest, DecoderPool, open_video, read_clip
from vlt.data.video.decode import decode
from vlt.data.video.errors import BrokenShard, NotAVideo, UnsupportedByDecord, WrongFrames
from vlt.data.video.sample import SAMPLERS, sample

LENGTHS = (23, 7, 12, 30, 1)
FORMS = {
    "all": Frames(quality=95),
    "thinned": Frames(short_side=16, fps=5),
    "clips": Clips(short_side=24, fps=5, keyframe_interval=4),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{form: manifest}, and the originals' manifest; no test writes into their folders."""
    root = tmp_path_factory.mktemp("made")
    originals = write_videos(root, LENGTHS)
    return {"originals": originals} | {
        name: make(originals, root / name, form) for name, form in FORMS.items()
    }


@pytest.fixture
def copy(made, tmp_path):
    """copy(form) -> the manifest of a copy of its folder; clears the index caches afterwards."""

    def copy(form):
        shutil.copytree(made[form].parent, tmp_path / form)
        return tmp_path / form / "manifest.jsonl"

    yield copy
    shards._index.cache_clear()
    shards._open.cache_clear()


def references(manifest):
    return [record.video for record in read_manifest(manifest)]


def request(path, sampler, **options):
    return ClipRequest(path, sampler, frames=4, seed=5, **options)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_a_stored_clip_gives_the_sample_of_the_same_file(made, tmp_path, sampler, backend):
    if backend == "decord":
        pytest.importorskip("decord")
    transform = {"random_resized_crop": 16, "flip": 0.5}
    for reference in references(made["clips"])[:3]:
        file = tmp_path / "clip.mp4"
        file.write_bytes(shards.read_record(reference)["content"])
        options = {"transform": transform, "backend": backend}
        stored = read_clip(request(reference, sampler, **options))
        assert np.array_equal(stored, read_clip(request(str(file), sampler, **options)))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frames_stored_all_give_the_original_s_indices(made, sampler):
    """Clips equal the JPEG-coded frames that the sampler takes from the original."""
    originals = references(made["originals"])
    for original, reference in zip(originals, references(made["all"]), strict=True):
        with open_video(original) as video:
            rng = np.random.default_rng((5, 1))
            indices = sample(sampler, len(video), 4, rng=rng, fps=video.fps)
        expected = [jpeg(frame, quality=95) for frame in decode(original, indices.tolist())]
        assert np.array_equal(read_clip(request(reference, sampler)), np.stack(expected))


def jpeg(frame, quality, size=None):
    """A frame after JPEG coding, as a reader of the file sees it."""
    out = io.BytesIO()
    image = Image.fromarray(frame)
    image = image.resize(size, Image.Resampling.BICUBIC) if size else image
    image.save(out, "JPEG", quality=quality)
    return np.asarray(Image.open(out))


def test_thinned_frames_are_those_of_the_clip_of_the_same_rate(made):
    originals = references(made["originals"])
    both = zip(references(made["thinned"]), references(made["clips"]), strict=True)
    for original, (frames, clip) in zip(originals, both, strict=True):
        with open_video(frames) as a, open_video(clip) as b, open_video(original) as whole:
            assert len(a) == len(b) and (len(a) < 2 or a.fps == pytest.approx(b.fps))
            wanted = [*range(0, len(whole), FPS // 5)][: len(a)]
            expected = [jpeg(frame, 90, (21, 16)) for frame in decode(original, wanted)]
            assert np.array_equal(a.read(range(len(a))), np.stack(expected))
            shapes = b.read([0]).shape
            assert shapes == (1, 24, 32, 3)  # from 36 x 48
            # And the clip shows the same pictures, up to the losses of H.264.
            shown = np.stack(
                [np.asarray(Image.fromarray(f).resize((21, 16))) for f in b.read(range(len(b)))]
            )
            assert np.abs(shown.astype(int) - np.stack(expected)).mean() < 8


def test_a_stored_video_is_smooth_where_the_clip_is_and_never_enlarged(made):
    with open_video(references(made["all"])[0]) as video:
        assert video.read([0]).shape == (1, 36, 48, 3) and len(video) == LENGTHS[0]
        assert video.fps == pytest.approx(FPS)


def test_keyframes_stand_as_near_as_asked(made):
    with open_video(references(made["clips"])[0]) as video:
        assert np.diff([*video.index.keyframes, len(video)]).max() <= 4


def stream(manifest, pool, tmp_path, evaluation=False):
    tokenizer_folder = tmp_path / "words"
    moving_shapes.write_tokenizer(tokenizer_folder)
    section = data_section(
        str(manifest), "uniform_segments", 3, 2, transform={"resize": 16, "crop": 16, "flip": 0.5}
    )
    data = VideoData(
        ConfigDict(section), Tokenizer.load(tokenizer_folder, context=16), pool, name="train",
        workdir=tmp_path, seed=1,
    )  # fmt: skip
    batches = data.evaluate() if evaluation else data.train()
    found = [batch for _, batch in zip(range(4), batches, strict=False)]
    batches.close()
    return found


@pytest.mark.parametrize("evaluation", [False, True])
def test_training_and_evaluation_read_shards_by_config(made, tmp_path, evaluation):
    """The same batches as from files with the content of the records, except for the names."""
    manifest = made["clips"]
    rows = read_lines(manifest)
    for number, row in enumerate(rows):
        record = shards.read_record(str(manifest.parent / row["video"]))
        (tmp_path / f"{number}.mp4").write_bytes(record["content"])
        row["video"] = f"{number}.mp4"
    files = write_rows(tmp_path / "files.jsonl", rows)
    with DecoderPool(1) as pool:
        of_shards = stream(manifest, pool, tmp_path, evaluation)
        of_files = stream(files, pool, tmp_path, evaluation)
    assert len(of_shards) == len(of_files) >= 3
    for one, other in zip(of_shards, of_files, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert np.array_equal(one[key], other[key]), key


def test_frames_are_read_in_any_order(made):
    with open_video(references(made["all"])[0]) as video:
        every = video.read(range(len(video)))
        assert np.array_equal(video.read([5, 2, 5]), every[[5, 2, 5]])
        with pytest.raises(WrongFrames, match="frame 23 was asked for; frames 0 to 22 exist"):
            video.read([1, 23])
        with pytest.raises(UnsupportedByDecord, match="backend='pyav'"):
            video.read([0], backend="decord")


def shard(manifest, number=0):
    return sorted(manifest.parent.glob("*.array_record"))[number]


def test_a_missing_shard_is_named(copy):
    manifest = copy("all")
    shard(manifest, 1).unlink()
    with pytest.raises(ManifestError, match=r"1 in all:\n  .*00001-of-00003.*: there is no such"):
        read_manifest(manifest)
    reference = read_manifest(manifest, check_videos=False)[2].video
    with pytest.raises(BrokenShard, match="there is no such shard"):
        read_clip(request(reference, "linspace"))


def test_a_truncated_shard_is_named(copy):
    manifest = copy("all")
    path = shard(manifest)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    with pytest.raises(ManifestError, match=f"has {size // 2:,} bytes instead of {size:,}"):
        read_manifest(manifest)


def test_a_truncated_shard_of_the_right_size_is_named(copy):
    manifest = copy("all")
    path = shard(manifest)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + bytes(size - size // 2))
    with pytest.raises(BrokenShard, match="00000-of-00003"):
        read_clip(request(references(manifest)[1], "linspace"))


def test_a_changed_byte_is_found(copy):
    manifest = copy("all")
    path = shard(manifest)
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenShard, match="the record is damaged: .*hash mismatch"):
        read_clip(request(references(manifest)[0], "linspace"))


def test_a_shard_of_another_run_is_named(made, copy, tmp_path):
    manifest = copy("all")
    other = make(made["originals"], tmp_path / "other", Frames(quality=95, short_side=32))
    wrong = shard(other).read_bytes()
    shard(manifest).write_bytes(wrong)
    index = manifest.parent / shards.INDEX
    known = json.loads(index.read_text())
    known["shards"][shard(manifest).name]["bytes"] = len(wrong)
    index.write_text(json.dumps(known))
    with pytest.raises(BrokenShard, match=f"of another run .* than its {shards.INDEX}"):
        read_clip(request(references(manifest)[0], "linspace"))


def test_a_shard_that_the_index_does_not_know_is_named(copy):
    manifest = copy("all")
    path = shard(manifest)
    path.rename(path.with_name("mine.array_record"))
    rows = [{"video": "mine.array_record#0", "caption": "x"}]
    with pytest.raises(ManifestError, match=f"mine.* is not a shard that the {shards.INDEX}"):
        read_manifest(write_rows(manifest, rows))


def test_an_unfinished_folder_is_named(copy):
    manifest = copy("all")
    (manifest.parent / shards.INDEX).unlink()
    with pytest.raises(ManifestError, match="there is no such file: the shards .* not complete"):
        read_manifest(manifest)


def test_a_record_that_is_not_there_is_named(copy):
    manifest = copy("all")
    rows = read_lines(manifest)
    rows[0]["video"] = rows[0]["video"].replace("#0", "#7")
    write_rows(manifest, rows)
    with pytest.raises(BrokenShard, match="#7: the shard has 2 records"):
        read_clip(request(references(manifest)[0], "linspace"))


def test_a_manifest_elsewhere_may_name_some_of_the_records(made, tmp_path):
    rows = read_lines(made["all"])[1:3]
    for row in rows:
        row["video"] = str(made["all"].parent / row["video"])
    part = write_rows(tmp_path / "part.jsonl", rows)
    whole = references(made["all"])
    found = [read_clip(request(r, "linspace")) for r in references(part)]
    assert all(
        np.array_equal(a, read_clip(request(b, "linspace")))
        for a, b in zip(found, whole[1:3], strict=True)
    )


def test_records_are_plain_data(made):
    """Only msgpack's own types, so nothing in a record is executed."""
    record = shards.read_record(references(made["all"])[0])
    assert record.keys() == {"run", "video", "frames", "fps"}
    assert shards.pack_record(record) == msgpack.packb(record)
    assert all(frame[:2] == b"\xff\xd8" for frame in record["frames"])


def jpeg_bytes(height=16, width=24, mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, (width, height), 7).save(out, "JPEG")
    return out.getvalue()


def resized_header(content, height, width):
    """A JPEG file whose header claims another size (marker SOF0)."""
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


HEAD = {"run": "forged", "video": "a.mp4"}
FRAMES = {"frames": [jpeg_bytes()] * 3, "fps": 5.0}
BROKEN = {
    "no msgpack": b"\xc1",
    "nothing": b"",
    "cut": msgpack.packb(HEAD | FRAMES)[:-40],
    "more behind it": msgpack.packb(HEAD | FRAMES) + b"\0",
    "text that is no UTF-8": b"\x81\xa1\xff\xa1\xff",
    "a list as key": b"\x81\x91\x01\x01",
    "a number as key": msgpack.packb({1: 2}),
    "deep": b"\x91" * 100_000,
    "a claim of 4 billion items": b"\xdd\xff\xff\xff\xff",
    "a type of its own": msgpack.packb(msgpack.ExtType(5, b"x")),
    "a list": msgpack.packb([HEAD]),
    "a number": msgpack.packb(3),
    "no run": msgpack.packb({"video": "a"} | FRAMES),
    "neither content nor frames": msgpack.packb(HEAD),
    "both": msgpack.packb(HEAD | FRAMES | {"content": b"x"}),
    "a field more": msgpack.packb(HEAD | FRAMES | {"path": "/etc/passwd"}),
    "content as text": msgpack.packb(HEAD | {"content": "/etc/passwd"}),
    "frames as text": msgpack.packb(HEAD | FRAMES | {"frames": ["a"]}),
    "one frame for all": msgpack.packb(HEAD | FRAMES | {"frames": jpeg_bytes()}),
    "no frames": msgpack.packb(HEAD | FRAMES | {"frames": []}),
    **{
        f"fps {fps}": msgpack.packb(HEAD | FRAMES | {"fps": fps})
        for fps in (0, -5.0, float("nan"), float("inf"), True, "5", None)
    },
    "another run": msgpack.packb(HEAD | FRAMES | {"run": "other"}),
    "an empty frame": msgpack.packb(HEAD | FRAMES | {"frames": [b""]}),
    "a frame cut": msgpack.packb(HEAD | FRAMES | {"frames": [jpeg_bytes()[:-200]]}),
    "a frame that is PNG": msgpack.packb(HEAD | FRAMES | {"frames": [b"\x89PNG\r\n\x1a\n"]}),
    "a grey frame": msgpack.packb(HEAD | FRAMES | {"frames": [jpeg_bytes(mode="L")]}),
    "a frame of four colours": msgpack.packb(HEAD | FRAMES | {"frames": [jpeg_bytes(mode="CMYK")]}),
}
TOO_LARGE = {
    "a bomb": resized_header(jpeg_bytes(), 65_500, 65_500),
    "large": resized_header(jpeg_bytes(), 9000, 9000),
    "thin": jpeg_bytes(4, 800),
}


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    """{name: reference} of every broken record, and of an intact one at the end."""
    records = [*BROKEN.values(), msgpack.packb(HEAD | FRAMES)]
    found = forge(tmp_path_factory.mktemp("forged") / "shards", *records)
    return dict(zip([*BROKEN, "sound"], found, strict=True))


@pytest.mark.parametrize("name", BROKEN)
def test_records_of_other_contents_are_broken_by_name(forged, name):
    with pytest.raises(BrokenShard) as caught:
        read_clip(request(forged[name], "linspace"))
    assert caught.value.path == forged[name]
    assert len(caught.value.reason) < 600
    assert read_clip(request(forged["sound"], "linspace")).shape == (4, 16, 24, 3)


def test_frames_out_of_bounds_are_named(tmp_path):
    records = [msgpack.packb(HEAD | FRAMES | {"frames": [f]}) for f in TOO_LARGE.values()]
    for name, reference in zip(TOO_LARGE, forge(tmp_path / "a", *records), strict=True):
        with pytest.raises((BrokenShard, WrongFrames), match="pixels") as caught:
            read_clip(request(reference, "linspace"))
        assert caught.value.path == reference, name
    record = HEAD | FRAMES | {"frames": [jpeg_bytes(), jpeg_bytes(24, 24)]}
    (reference,) = forge(tmp_path / "b", msgpack.packb(record))
    with pytest.raises(WrongFrames, match=r"two sizes \(H, W\): \(16, 24\) and \(24, 24\)"):
        read_clip(request(reference, "linspace"))


def test_a_record_that_is_a_playlist_is_no_video(made, tmp_path):
    target = tmp_path / "target.mov"
    target.write_bytes(shards.read_record(references(made["clips"])[0])["content"])
    for text in (
        f"#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile a\n",
    ):
        folder = tmp_path / str(len(text))
        (reference,) = forge(folder, msgpack.packb(HEAD | {"content": text.encode()}))
        with pytest.raises(
            NotAVideo, match="forged.array_record#0: not a video: libav reads it as"
        ):
            read_clip(request(reference, "linspace"))


@pytest.mark.parametrize(
    "index",
    ["[]", "3", '{"run": 3, "shards": {}}', '{"run": "a"}', '{"run": "a", "shards": []}',
     '{"run": "a", "shards": {"a": 3}}', '{"run": "a", "shards": {"a": {}}}',
     "[" * 200_000, "\xff"],
)  # fmt: skip
def test_an_index_of_other_contents_is_named(copy, index):
    manifest = copy("all")
    (manifest.parent / shards.INDEX).write_bytes(index.encode("latin-1"))
    with pytest.raises(ManifestError, match=f"{shards.INDEX}|not JSON|is not an index of shards"):
        read_manifest(manifest)


def test_broken_records_are_errors_of_the_video_in_a_pool_too(forged):
    """So `on_error` applies to them."""
    with DecoderPool(1) as pool:
        for name in ("deep", "no run", "a frame cut"):
            with pytest.raises(BrokenShard) as caught:
                pool.read(request(forged[name], "linspace"))
            assert caught.value.path == forged[name]
        assert pool.read(request(forged["sound"], "linspace")).shape == (4, 16, 24, 3)
