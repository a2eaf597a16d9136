"""What `vlt caption --json` prints, an object of `video` and `caption` a line, as predictions."""

import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from vlt.data.manifest import READERS, read_manifest
from vlt.data.text_files import TextFileError, read_json_lines
from vlt.tasks.caption_metrics import ScoringError, references_of

_FORMS = ({"video", "caption"}, {"video", "error"})


def read_captioned_videos(path: str | os.PathLike[str]) -> dict[str, str] | None:
    """Captions by paths of videos; None for a file that begins otherwise.

    A video with an `error` in the place of its caption has none.

    Raises: ScoringError for a line of another form, or a video that comes twice.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    lines = read_json_lines(path)
    try:
        for number, entry in lines:
            if not _is_captioned(entry):
                if not seen:
                    return None
                raise ScoringError(f"{path}, line {number}: no `video` with its `caption`")
            if entry["video"] in seen:
                raise ScoringError(f"{path}, line {number}: {entry['video']!r} comes twice")
            seen.add(entry["video"])
            if "caption" in entry:
                found[entry["video"]] = entry["caption"]
    except TextFileError as error:
        if not seen:
            return None  # which `read_predictions` tells
        raise ScoringError(str(error)) from None
    return found if seen else None


def _is_captioned(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or {*entry} not in _FORMS:
        return False
    return all(isinstance(value, str) for value in entry.values())


def by_reference(
    captions: Mapping[str, str], ids: Collection[str], references: str | os.PathLike[str]
) -> dict[str, str]:
    """The captions by ids of the references.

    A file's id is that of its row, where the references are a manifest; else the id that is its
    path, its name, or its name without suffix. A file that has none keeps its path.

    Raises: ScoringError for two files of one id.
    """
    rows = _ids_of_files(references)
    found: dict[str, str] = {}
    for path, caption in captions.items():
        file = pathlib.Path(path)
        names = (rows.get(file.resolve()), path, file.name, file.stem)
        identity = next((name for name in names if name in ids), path)
        assert identity is not None
        if identity in found:
            raise ScoringError(f"{path}: another captioned video also has the id {identity!r}")
        found[identity] = caption
    return found


def _ids_of_files(references: str | os.PathLike[str]) -> dict[pathlib.Path, str]:
    """Of a manifest, the ids by which `references_of` names its files; else nothing."""
    if pathlib.Path(references).suffix not in READERS:
        return {}
    records = read_manifest(references, check_videos=False)
    ids = references_of(records)
    return {pathlib.Path(r.video).resolve(): r.id for r in reversed(records) if r.id in ids}


def common_ids(
    predictions: Mapping[str, str], references: Mapping[str, list[str]]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Both, of the ids that both have. Raises ScoringError where there is none."""
    ids = [each for each in references if each in predictions]
    if not ids:
        one, other = (next(iter(each), "none") for each in (predictions, references))
        raise ScoringError(f"no id in common: predictions have {one}, references {other}, ...")
    return {each: predictions[each] for each in ids}, {each: references[each] for each in ids}
