"""Small annotation files and videos in place of the published ones that the papers' pages use."""

import csv
import json
import pathlib
import pickle
import shutil
from collections.abc import Iterable
from typing import Any

from vlt.evaluation.recognition_protocols import RECOGNITION_PROTOCOLS, SAMPLINGS, SHOTS, SPLITS

DATA_SETS = (
    *("msrvtt", "didemo", "lsmdc", "activitynet", "msvd", "vatex", "webvid"),
    *("hmdb51", "ucf101", "ssv2", "k400", "k600"),
)
# Data set: prefix of its base and novel tables, table of all classes, folder of splits, tests.
RECOGNITION = {
    "hmdb51": ("hmdb_51", "hmdb_51_labels", "hmdb_splits", ("val1", "val2", "val3")),
    "ucf101": ("ucf_101", "ucf_101_labels", "ucf_splits", ("val1", "val2", "val3")),
    "ssv2": ("ssv2_174", "ssv2_labels", "ssv2_splits", ("train", "validation")),
    "k400": ("kinetics_400", "kinetics_400_labels", "k400_splits", ("train", "val")),
}
CLASSES = {"hmdb51": (51, 26), "ucf101": (101, 51), "ssv2": (174, 87), "k400": (400, 200)}
DESCRIBED = {"hmdb51": "hmdb", "ucf101": "ucf_101", "ssv2": "ssv2", "k400": "k400"}


def make(folder: pathlib.Path, clips: Iterable[pathlib.Path], captions: Iterable[str]) -> None:
    """Fills the folder: every data set gets the same clips as videos, named video0 and so on."""
    texts = {f"video{n}": text for n, text in enumerate(captions)}
    for name, clip in zip(texts, clips, strict=True):
        for data in DATA_SETS:
            place = folder / "videos" / data
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, place / f"{name}{clip.suffix}")
    for n, clip in enumerate(sorted((folder / "videos/k400").iterdir())):
        place = folder / f"videos/k400/train/class {n % 2}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, place / f"train{n}{clip.suffix}")
    _captions(folder, texts)
    _webvid(folder, texts)
    for data in RECOGNITION:
        _recognition(folder, data, list(texts))
    _kinetics_600(folder, list(texts))


def _dump(file: pathlib.Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def _lines(file: pathlib.Path, lines: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def _captions(folder: pathlib.Path, texts: dict[str, str]) -> None:
    parts = ("train", "validate", "test")
    videos = [{"video_id": v, "split": parts[n % 3]} for n, v in enumerate(texts)]
    sentences = [{"video_id": video, "caption": text} for video, text in texts.items()]
    root = folder / "msrvtt_data"
    _dump(root / "MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    _lines(root / "MSRVTT_train.9k.csv", ["video_id", *texts])
    _table(root / "MSRVTT_JSFUSION_test.csv", ("video_id", "sentence"), texts.items())
    for name in ("train", "val", "test"):
        described = [{"video": video, "description": text} for video, text in texts.items()]
        _dump(folder / f"didemo_data/{name}_data.json", described)
        _lines(folder / f"msvd_data/{name}_list.txt", texts)
    for name in ("train", "val_1"):
        told = {video: {"sentences": [text]} for video, text in texts.items()}
        _dump(folder / f"activitynet_data/{name}.json", told)
    for name in ("annos_training", "annos_val", "challenge_1000_publictect"):
        fields = ["\t".join([video, "0", "0", "0", "0", text]) for video, text in texts.items()]
        _lines(folder / f"lsmdc_data/LSMDC16_{name}.csv", fields)
    written = pickle.dumps({video: [text.split()] for video, text in texts.items()})
    (folder / "msvd_data/raw-captions.pkl").write_bytes(written)
    for name in ("training_v1.0", "validation_v1.0", "public_test_english_v1.1"):
        translated = [{"videoID": video, "enCap": [text]} for video, text in texts.items()]
        _dump(folder / f"vatex_data/vatex_{name}.json", translated)


def _webvid(folder: pathlib.Path, texts: dict[str, str]) -> None:
    place = folder / "data/webvid2m"
    columns = ("videoid", "contentUrl", "duration", "page_dir", "name")
    rows = [(video, "", "", "page", text) for video, text in texts.items()]
    _table(place / "results_2M_train.csv", columns, rows)
    for clip in (folder / "videos/webvid").iterdir():
        (place / "videos/page").mkdir(parents=True, exist_ok=True)
        shutil.move(clip, place / f"videos/page/{clip.stem}.mp4")


def _table(file: pathlib.Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([columns, *rows])


def _classes(file: pathlib.Path, count: int) -> None:
    _table(file, ("id", "name"), [(n, f"class {n}") for n in range(count)])


def _recognition(folder: pathlib.Path, data: str, videos: list[str]) -> None:
    prefix, table, splits, tests = RECOGNITION[data]
    every, base = CLASSES[data]
    counts = {table: every, f"{prefix}_base_labels": base, f"{prefix}_novel_labels": every - base}
    for name, count in counts.items():
        _classes(folder / f"labels/{name}.csv", count)
    rows = [f"{video}.mp4 {n % 2}" for n, video in enumerate(videos)]
    for name in tests:
        _lines(folder / f"datasets_splits/{splits}/{name}.txt", rows)
    for shots in SHOTS if data != "k400" else ():
        _lines(folder / f"datasets_splits/{splits}/train1_few_shot_{shots}.txt", rows[: 2 * shots])
    for name in (*(f"fs_base_s{n}_train" for n in SAMPLINGS), "base_val", "novel_val"):
        _lines(folder / f"datasets_splits/base2novel_splits/{splits}/{name}.txt", rows)
    for kind in "st":
        for part, count in (("", every), ("_base", base)):
            told = {str(n): [f"a {kind} of class {n}"] * 2 for n in range(count)}
            name = f"2_{kind}_description_{DESCRIBED[data]}{part}.json"
            _dump(folder / "data/descriptions" / name, told)


def _kinetics_600(folder: pathlib.Path, videos: list[str]) -> None:
    rows = [f"{video}.mp4 {n % 2}" for n, video in enumerate(videos)]
    for split in SPLITS:
        count = RECOGNITION_PROTOCOLS[f"k600_zero_shot_{split}"].classes or 0
        _classes(folder / f"labels/ZS_split{split}_K600.csv", count)
        _lines(folder / f"datasets_splits/k600_splits/ZS_split{split}_K600_eval.txt", rows)
