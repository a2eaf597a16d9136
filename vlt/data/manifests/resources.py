"""Names in configs that stand for files that the project ships or makes itself."""

from pathlib import Path

ASSETS = Path(__file__).parents[2] / "assets"
MADE = "moving_shapes:"
PACKAGED = (
    *("tiny_clip", "tiny_blip", "tiny_viclip", "tiny_chat", "tiny_branch"),
    "action_templates.txt",
    "actionclip_templates.txt",
    "person_templates.txt",
)


def is_made(name: str) -> bool:
    """Whether the project makes what this name stands for, so that it cannot be absent."""
    return name.startswith(MADE)


def resolve(name: str) -> Path:
    """The path that a config's name stands for.

    `tiny_clip`, `tiny_blip`, `tiny_viclip`, `tiny_chat` and `tiny_branch` (a tiny CLIP with
    BT-Adapter) are model folders in the package, `action_templates.txt` is a list of sentences that
    name an action, `actionclip_templates.txt` ActionCLIP's 16, `person_templates.txt` CLIP's 28 for
    Kinetics. `moving_shapes:CONTENT:SPLIT:COUNT[:FILE]` is a file of a generated data set (its
    manifest by default), made on first use in the cache folder; the content
    `clips,noise=24,distractors=1` is harder clips (`vlt.data.moving_shapes.knobs`). Anything else
    is a path.

    Raises:
        ValueError: a moving_shapes name has another form or an unknown knob.
    """
    if name in PACKAGED:
        return ASSETS / name
    if is_made(name):
        return _moving_shapes(name)
    return Path(name).expanduser()


def _moving_shapes(name: str) -> Path:
    from vlt.data import moving_shapes

    parts = name.split(":")[1:]
    if len(parts) not in (3, 4) or not parts[2].isdecimal():
        raise ValueError(f"{name!r}: must be moving_shapes:CONTENT:SPLIT:COUNT[:FILE]")
    content, split, count, *file = parts
    content, *settings = content.split(",")
    knobs = moving_shapes.Knobs.parse(settings)
    seed = 1 if content == "stills" else 0  # so that no still is a frame somebody trained on
    manifest = moving_shapes.cached(int(count), seed, split, content, knobs)
    return manifest.parent / file[0] if file else manifest
