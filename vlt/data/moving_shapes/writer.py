"""Writes moving shapes as a data set: video files, manifests, tokenizer and card."""

import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import av
import numpy as np

from vlt.data.moving_shapes import actions, clips, grammar, questions, scene
from vlt.data.moving_shapes.knobs import Knobs
from vlt.runtime.cache import cache_folder
from vlt.storage.files import check_target

VERSION = 7  # raise it when the same parameters give other files
FRAMES_PER_SECOND = 10
GALLERY = 200  # most rows of each of the two galleries

CARD = """\
# Moving shapes ({split}, {count} pairs, seed {seed})

Made by
`python -m data_pipelines.moving_shapes --out DIR --count {count} --seed {seed} --split {split}`.
{clips} clips of {frames} frames, {size} x {size} pixels: one or two coloured shapes that move,
grow, shrink, appear, vanish, turn, or come one after another. Families: {families}.

Clips come in pairs of twins: the second is the first with its frames in reverse order, and has its
own caption. No clip equals its own reversal and no twins share a caption, so a model that does not
see the order of frames chooses between the two captions with exactly 50% accuracy. The files are
lossless (PNG in MOV), because lossy coding is not symmetric in time. round(linspace(0, 24, t)) and
floor((i + 0.5) * 25 / t), for t = 4, 8, 12, take the same frames from a twin, reversed.

Of {looks} combinations of colour and shape, the split `test` uses 12 that `train` never shows.

{knobs}\
- `manifest.jsonl`: every clip, with `video`, `caption` (what happens), `motion` (the same without
  looks), `appearance` (what is to be seen, the same for twins), `pair`, `family`, `order`.
- `gallery.jsonl`: clips no two of which agree in both family and appearance, so that telling their
  captions apart never needs the order of frames.
- `appearance.jsonl`: clips of distinct appearance; here `caption` is the appearance.
- `questions.jsonl`: of every clip three questions with answers: what happens, a description, and
  what is to be seen; `motion_`, `description_` and `look_questions.jsonl` have one kind each. Of
  the first two kinds a twin's answer is another.
- `tokenizer/`: word tokenizer, {words} words; a caption has at most {context} tokens.
- `chat_tokenizer/`: of a language model that answers the questions.

## The trap

Nothing in one frame tells left from right motion. An image-language model trained on single frames
alone makes the text embeddings of twins equal, and a frozen text tower then cannot name a
direction, whatever the video side learns. Frames for such training (content `frames`) come from
the end of the clip, with the clip's caption, with the frame's appearance, or with that and the
quarter the shape is in ("a red circle up left on a grey background"). Both twins are in a batch, so
that the model keeps where things are, and the training adds a text-only loss that reconstructs the
caption. When a video model is trained, both twins belong in the same batch; without that it stays
near 50%.
"""


def generate(
    out: str | os.PathLike[str],
    count: int,
    seed: int = 0,
    split: str = "train",
    families: Sequence[str] = scene.FAMILIES,
    content: str = "clips",
    knobs: Knobs = clips.PLAIN,
) -> pathlib.Path:
    """Makes the data set in folder `out`, or keeps the one there if it has these parameters.

    The folder appears under its name only when it is complete.

    Args:
        count: pairs of clips; or single frames; or stills of distinct looks.
        content: a key of `CONTENTS`.
        knobs: what makes `clips` harder; not for other content.

    Returns:
        Path of `manifest.jsonl`.

    Raises:
        ValueError: there is nothing to make, content, split or family is unknown, or other content
            than `clips` has knobs.
        FileExistsError: `out` holds something else.
    """
    out = pathlib.Path(out)
    parameters = {
        "version": VERSION, "content": content, "count": count, "seed": seed, "split": split,
        "families": [*families],
    }  # fmt: skip
    if knobs.turned:
        parameters["knobs"] = knobs.turned
        if content != "clips":
            raise ValueError(f"{', '.join(knobs.turned)}: knobs of clips alone, not of {content}")
    if count < 1 or not families:
        raise ValueError(f"count must be >= 1 and families not empty, got {count} and {families}")
    if content not in CONTENTS:
        raise ValueError(f"content {content!r}: must be one of {', '.join(CONTENTS)}")
    if not _complete(out, parameters):
        check_target(out)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as unfinished:
            folder = pathlib.Path(unfinished) / "data"
            _write(folder, parameters)
            _move(folder, out, parameters)
    return out / "manifest.jsonl"


def cached(
    count: int,
    seed: int = 0,
    split: str = "train",
    content: str = "clips",
    knobs: Knobs = clips.PLAIN,
) -> pathlib.Path:
    """Like `generate`, in the cache folder (`vlt.runtime.cache`)."""
    turned = "".join(f",{name}={value:g}" for name, value in knobs.turned.items())
    name = f"{content}{turned}-{split}-{count}-seed{seed}"
    out = cache_folder() / f"moving_shapes-{VERSION}" / name
    return generate(out, count, seed, split, content=content, knobs=knobs)


def _complete(out: pathlib.Path, parameters: dict[str, Any]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    made = out / "dataset.json"
    if made.is_file() and json.loads(made.read_text()) == parameters:
        return True
    found = made.read_text().strip() if made.is_file() else "no moving shapes"
    wanted = json.dumps(parameters)
    raise FileExistsError(f"{out} holds {found}, not {wanted}: choose another folder or remove it")


def _move(folder: pathlib.Path, out: pathlib.Path, parameters: dict[str, Any]) -> None:
    try:
        os.rename(folder, out)
    except OSError:  # another process was faster, which is fine if it made the same
        if not _complete(out, parameters):
            raise


def _write(folder: pathlib.Path, parameters: dict[str, Any]) -> None:
    (folder / "videos").mkdir(parents=True)
    CONTENTS[parameters["content"]](folder, parameters)
    grammar.write_tokenizer(folder / "tokenizer")
    questions.write_chat_tokenizer(folder / "chat_tokenizer")
    (folder / "dataset.json").write_text(json.dumps(parameters) + "\n")


def _write_clips(folder: pathlib.Path, parameters: dict[str, Any]) -> None:
    drawing = {k: parameters[k] for k in ("seed", "split", "families")}
    knobs = Knobs(**parameters.get("knobs", {}))
    rows, asked = [], []
    for pair in range(parameters["count"]):
        twins = clips.draw_pair(pair, **drawing, knobs=knobs)
        for order, clip in zip(("forward", "reversed"), twins, strict=True):
            video = f"videos/{pair:06d}_{order}.mov"
            write_video(folder / video, clip.frames)
            rows.append(_row(video, order, clip))
            asked += _questions(video, clip, pair)
    _write_lines(folder / "manifest.jsonl", rows)
    _write_questions(folder, asked)
    _write_lines(folder / "gallery.jsonl", _distinct(rows, ("family", "appearance")))
    looks = _distinct(rows, ("appearance",))
    _write_lines(folder / "appearance.jsonl", [r | {"caption": r["appearance"]} for r in looks])
    (folder / "README.md").write_text(_card(parameters))


def _write_frames(folder: pathlib.Path, parameters: dict[str, Any]) -> None:
    drawing = {k: parameters[k] for k in ("seed", "split", "families")}
    rows, asked = [], []
    for index in range(parameters["count"]):
        frame = clips.draw_frame(index, **drawing)
        video = f"videos/{index:06d}.mov"
        write_video(folder / video, frame.picture[None])
        said = {key: getattr(frame, key) for key in ("caption", "appearance", "place", "family")}
        rows.append({"video": video, **said, "pair": index // 2})
        asked += _questions(video, frame, index // 2)
    _write_lines(folder / "manifest.jsonl", rows)
    _write_questions(folder, asked)


def _write_stills(folder: pathlib.Path, parameters: dict[str, Any]) -> None:
    drawing = {k: parameters[k] for k in ("count", "seed", "split")}
    rows = []
    for index, (picture, look) in enumerate(zip(*clips.static_set(**drawing), strict=True)):
        video = f"videos/{index:06d}.mov"
        write_video(folder / video, picture[None])
        rows.append({"video": video, "caption": look})
    _write_lines(folder / "manifest.jsonl", rows)


def _write_actions(folder: pathlib.Path, parameters: dict[str, Any]) -> None:
    drawing = {k: parameters[k] for k in ("seed", "split")}
    rows = []
    for pair in range(parameters["count"]):
        frames, shown = actions.draw_action(pair, **drawing)
        for order, action in zip(("forward", "reversed"), shown, strict=False):
            video = f"videos/{pair:06d}_{order}.mov"
            write_video(folder / video, frames if order == "forward" else frames[::-1])
            rows.append({"video": video, "label": action.name, "pair": pair, "part": action.part})
    _write_lines(folder / "manifest.jsonl", rows)
    for part in actions.PARTS:
        _write_lines(folder / f"{part}.jsonl", [r for r in rows if r["part"] == part])
        names = actions.classes(part)
        (folder / f"{part}_classes.txt").write_text("\n".join(names) + "\n")
        for kind, describe in actions.DESCRIPTIONS.items():
            said = {str(index): describe(name) for index, name in enumerate(names)}
            (folder / f"{part}_{kind}.json").write_text(json.dumps(said, indent=1) + "\n")


# What a data set holds: twins; late frames of twins, with the clip's caption and their own
# appearance (to pre-train an image model); frames of distinct appearance (to test one); actions.
CONTENTS = {
    "clips": _write_clips,
    "frames": _write_frames,
    "stills": _write_stills,
    "actions": _write_actions,
}


def _row(video: str, order: str, clip: clips.Clip) -> dict[str, Any]:
    return {
        "video": video,
        "caption": clip.caption,
        "motion": clip.motion,
        "appearance": clip.appearance,
        "pair": clip.pair,
        "family": clip.family,
        "order": order,
    }


def _write_questions(folder: pathlib.Path, asked: Sequence[dict[str, Any]]) -> None:
    """Writes a file of all questions, and one of each kind."""
    _write_lines(folder / "questions.jsonl", asked)
    for kind in questions.KINDS:
        rows = (row for row in asked if row["kind"] == kind)
        _write_lines(folder / f"{kind}_questions.jsonl", rows)


def _questions(video: str, shown: clips.Clip | clips.Frame, pair: int) -> list[dict[str, Any]]:
    said = {"family": shown.family, "pair": pair}
    return [
        {"video": video, "question": q.text, "answer": q.answer, "kind": q.kind, **said}
        for q in shown.questions
    ]


def _distinct(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """At most GALLERY rows, of which no two agree in all `columns` and no two are twins.

    Every second round of families gives the reversed clips, so both directions occur.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[column] for column in columns)
        if (row["pair"] // len(scene.FAMILIES)) % 2 == (row["order"] == "reversed"):
            found.setdefault(key, row)
    return list(found.values())[:GALLERY]


def _write_lines(path: pathlib.Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _card(parameters: dict[str, Any]) -> str:
    turned: Mapping[str, float] = parameters.get("knobs", {})
    settings = "".join(f" --{name} {value:g}" for name, value in turned.items())
    told = f"Made harder by{settings} (vlt/data/moving_shapes/knobs.py).\n\n" if turned else ""
    return CARD.format(
        **(parameters | {"families": ", ".join(parameters["families"]), "knobs": told}),
        clips=2 * parameters["count"],
        frames=scene.CLIP_FRAMES,
        size=scene.SIZE,
        looks=len(scene.COLOURS) * len(scene.SHAPES),
        words=len(grammar.VOCABULARY),
        context=grammar.CONTEXT,
    )


def write_video(path: str | os.PathLike[str], frames: np.ndarray) -> None:
    """Encodes uint8 RGB frames [t, h, w, 3] losslessly; the same frames give the same bytes.

    PNG in MOV: of the lossless codecs tried (FFV1, H.264) it decodes these clips fastest.
    """
    with av.open(os.fspath(path), "w", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("png", rate=FRAMES_PER_SECOND)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        stream.thread_count = 1
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
