"""The words of moving shapes: captions of clips and of frames, and their tokenizer."""

import json
import pathlib
from typing import Any

from vlt.data.moving_shapes.scene import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZE,
    Look,
    Scene,
)

CONTEXT = 16  # tokens of the longest caption with its start and end
VERBS = {  # family -> what happens in the scene, and in its reversal
    "horizontal": ("moves right", "moves left"),
    "vertical": ("moves down", "moves up"),
    "size": ("grows", "shrinks"),
    "presence": ("appears", "vanishes"),
    "orbit": ("turns clockwise", "turns anticlockwise"),
    "sequence": ("appears", "vanishes"),
}
PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"


def _vocabulary() -> tuple[str, ...]:
    verbs = sorted({word for pair in VERBS.values() for verb in pair for word in verb.split()})
    glue = ("a", "an", "on", "and", "then", ",", "empty", "background")
    # <end> comes last: CLIP's text tower reads the embedding at argmax(ids).
    return (PAD, UNKNOWN, *glue, *COLOURS, *SHAPES, *BACKGROUNDS, *verbs, START, END)


VOCABULARY = _vocabulary()


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def name(look: Look) -> str:
    return _a(f"{look.colour} {look.shape}")


def clip_captions(scene: Scene) -> tuple[str, str]:
    """What happens in the scene, and in its reversal."""
    forward, backward = VERBS[scene.family]
    where = f"on {_a(scene.background)} background"
    names = [name(track.look) for track in scene.tracks]
    if len(names) == 1:
        return f"{names[0]} {forward} {where}", f"{names[0]} {backward} {where}"
    first, second = names
    return (
        f"{first} {forward}, then {second} {where}",
        f"{second} {backward}, then {first} {where}",
    )


def appearance(scene: Scene, moment: int | None = None) -> str:
    """What the scene's frame at `moment` shows, or by default what the whole clip shows.

    Shapes are named from left to right, or from top to bottom where they lie further apart that
    way, so the order of the words says nothing about time.
    """
    seen = [t for t in scene.tracks if moment is None or t.radius[moment] > 0]
    if not seen:
        return f"an empty {scene.background} background"
    wide = abs(seen[0].x[0] - seen[-1].x[0]) >= abs(seen[0].y[0] - seen[-1].y[0])
    seen.sort(key=lambda track: track.x[0] if wide else track.y[0])
    return f"{' and '.join(name(t.look) for t in seen)} on {_a(scene.background)} background"


def place(scene: Scene, moment: int) -> str:
    """What a frame shows and, of a single shape, its quarter: "a red circle up left on ..."."""
    seen = [track for track in scene.tracks if track.radius[moment] > 0]
    if len(seen) != 1:
        return appearance(scene, moment)
    down, right = seen[0].y[moment] > SIZE / 2, seen[0].x[moment] > SIZE / 2
    corner = f"{'down' if down else 'up'} {'right' if right else 'left'}"
    return f"{name(seen[0].look)} {corner} on {_a(scene.background)} background"


def write_tokenizer(folder: str | pathlib.Path) -> None:
    """Writes the word tokenizer as a Hugging Face folder that AutoTokenizer loads offline.

    Ids: <pad> 0, <unk> 1, words, <start>, <end> the highest; text is lower-cased.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(w, ids[w]) for w in (START, END)]
    )
    tokenizer.add_special_tokens([PAD, UNKNOWN, START, END])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "model_max_length": CONTEXT,
    }
    save_tokenizer(tokenizer, folder, settings)


def save_tokenizer(tokenizer: Any, folder: str | pathlib.Path, settings: dict[str, Any]) -> None:
    """Writes a tokenizers.Tokenizer and its tokenizer_config.json."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
