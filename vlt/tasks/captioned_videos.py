"""Reads what `vlt caption --json` prints, a `video` with its `caption` per line, as predictions."""

import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from vlt.data.manifests.manifest import READERS, read_manifest
from vlt.data.text.text_files import TextFileError, read_json_lines
from vlt.tasks.caption_metrics import ScoringError, references_of

_FORMS = ({"video", "caption"}, {"video", "error"})


def read_captioned_videos(path: str | os.PathLike[str]) -> dict[str, str] | None:
    """Captions by paths of videos; None for a file that does not begin in this form.

    A video with an `error` in place of its `caption` is left out.

    Raises: ScoringError for a line of another form, or a duplicate video.
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
            return None  # `read_predictions` reports the error
        raise ScoringError(str(error)) from None
    return found if seen else None


def _is_captioned(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or {*entry} not in _FORMS:
        return False
    return all(isinstance(value, str) for value in entry.values())


def by_reference(
    captions: Mapping[str, str], ids: Collection[str], references: str | os.PathLike[str]
) -> dict[str, str]:
    """The captions by the references' ids.

    A file's id is that of its row, where the references are a manifest; otherwise the id that
    equals its path, its name, or its name without suffix. A file without an id keeps its path.

    Raises: ScoringError for two files with one id.
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
    """The ids by which `references_of` names a manifest's files; none if it is not a manifest."""
    if pathlib.Path(references).suffix not in READERS:
        return {}
    records = read_manifest(references, check_videos=False)
    ids = references_of(records)
    return {pathlib.Path(r.video).resolve(): r.id for r in reversed(records) if r.id in ids}


def common_ids(
    predictions: Mapping[str, str], references: Mapping[str, list[str]]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Both, restricted to the ids that they share. Raises ScoringError if they share none."""
    ids = [each for each in references if each in predictions]
    if not ids:
        one, other = (next(iter(each), "none") for each in (predictions, references))
        raise ScoringError(f"no id in common: predictions have {one}, references {other}, ...")
    return {each: predictions[each] for each in ids}, {each: references[each] for each in ids}
