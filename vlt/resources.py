"""Names in configs that stand for files the project holds or makes itself."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
PACKAGED = ("tiny_clip",)


def resolve(name: str) -> Path:
    """The path a config names.

    `tiny_clip` is the model folder in the package. `moving_shapes:SPLIT:PAIRS[:FILE]` is a file of
    a generated data set (its manifest by default), made on first use in the cache folder. Anything
    else is a path.

    Raises:
        ValueError: a moving_shapes name of another form.
    """
    if name in PACKAGED:
        return ASSETS / name
    if name.startswith("moving_shapes:"):
        return _moving_shapes(name)
    return Path(name).expanduser()


def _moving_shapes(name: str) -> Path:
    from data_pipelines import moving_shapes

    _, split, *rest = name.split(":")
    if not 1 <= len(rest) <= 2 or not rest[0].isdecimal():
        raise ValueError(
            f"{name!r}: must be moving_shapes:SPLIT:PAIRS or moving_shapes:SPLIT:PAIRS:FILE"
        )
    manifest = moving_shapes.cached(int(rest[0]), split=split)
    return manifest.parent / rest[1] if rest[1:] else manifest
