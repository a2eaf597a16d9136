"""Dialogues about videos or images, from the files that video instruction tuning uses."""

import collections
import dataclasses
import os
import pathlib
from typing import Any

from absl import logging

from data_pipelines.annotation_files import AnnotationError, read_json, video_names
from vlt.data.manifests.dialogues import checked_dialogue
from vlt.data.text.prompts import VIDEO

IMAGE = "<image>"
CACHED = (".pkl", ".npy", ".npz", ".jpg", ".jpeg", ".png", ".webp")  # instead of a video's


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """Turns about one video, as LLaVA writes them; `id` is '' where the file has none."""

    turns: tuple[dict[str, str], ...]
    id: str = ""

    def columns(self) -> dict[str, Any]:
        """Its columns in a manifest's row."""
        return {"conversations": list(self.turns)}


Dialogues = dict[str, list[Dialogue]]  # by name of the video


def read_dialogues(path: pathlib.Path) -> Dialogues:
    """Reads dialogues by video from a list of objects, .json or .jsonl, in one of two forms:

    - {"q", "a", "video_id"} (VideoInstruct-100K): one turn each; the video follows the question in
      the first, third, ... entry and precedes it in the others, as in published training
    - {"video" or "image", "conversations": [{"from": "human" or "gpt", "value"}, ...]} (LLaVA): a
      first turn of `gpt` is left out, <image> becomes <video>, ids are kept if none occurs twice

    Raises: AnnotationError for a file of another form, or a dialogue that no manifest can hold.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise AnnotationError(f"{path}: holds no list of dialogues")
    read, answered = [], 0
    for index, entry in enumerate(entries):
        video, dialogue, first = _read(path, index, entry)
        read.append((video, dialogue))
        answered += first
    if answered:
        logging.warning("%s: %d dialogues begin with an answer: it is left out", path, answered)
    if max(collections.Counter(each.id for _, each in read).values(), default=0) > 1:
        read = [(video, Dialogue(each.turns)) for video, each in read]
    names = video_names(video for video, _ in read)
    found: Dialogues = {}
    for video, dialogue in read:
        found.setdefault(names[video], []).append(dialogue)
    return found


def _read(path: pathlib.Path, index: int, entry: Any) -> tuple[str, Dialogue, bool]:
    """Video, dialogue, and whether an answer before the first question was left out."""
    where = f"{path}: entry {index + 1}"
    keys = entry.keys() if isinstance(entry, dict) else set()
    if {"q", "a", "video_id"} <= keys:
        turns, first = _pair(where, index, entry["q"], entry["a"]), False
        video, identity = entry["video_id"], ""
    elif "conversations" in keys and {"video", "image"} & keys:
        turns, first = _spoken(entry["conversations"])
        video, identity = entry.get("video", entry.get("image")), str(entry.get("id", ""))
    else:
        held = ", ".join(map(str, keys)) or repr(entry)
        raise AnnotationError(
            f"{where} must have `q`, `a`, `video_id`, or `conversations` with `video` or `image`; "
            f"it holds {held[:200]}"
        )
    if not isinstance(video, str) or not video.strip():
        raise AnnotationError(f"{where} names no video: {video!r:.80}")
    try:
        checked_dialogue(turns)
    except ValueError as error:
        raise AnnotationError(f"{where}, of {video}: the dialogue {error}") from None
    return _video(video), Dialogue(tuple(turns), identity), first


def _pair(where: str, index: int, question: Any, answer: Any) -> list[dict[str, str]]:
    for key, text in (("q", question), ("a", answer)):
        if not isinstance(text, str):
            raise AnnotationError(f"{where}: `{key}` must be text, is {text!r:.80}")
    asked = f"{VIDEO}\n{question}" if index % 2 else f"{question}\n{VIDEO}"
    return [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]


def _spoken(turns: Any) -> tuple[Any, bool]:
    """Turns with <video> for <image>, from the first question on, and whether one was dropped."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return turns, False
    first = bool(turns) and turns[0].get("from") == "gpt"
    return [_renamed(turn) for turn in turns[first:]], first


def _renamed(turn: dict[str, Any]) -> dict[str, Any]:
    value = turn.get("value")
    return {**turn, "value": value.replace(IMAGE, VIDEO)} if isinstance(value, str) else turn


def _video(text: str) -> str:
    """The path of a video; `text` may name its cached features or an image instead."""
    stem, suffix = os.path.splitext(text)
    return stem if suffix.lower() in CACHED else text
