"""Rows that were run: one JSON file each, by which a study goes on where it was stopped."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from vlt import configuration
from vlt.storage.files import write_whole
from vlt.study.plan import Run
from vlt.study.verdict import Scores


@dataclasses.dataclass(frozen=True)
class KeptRow:
    """What is kept of a run.

    name: of the file. identities: of the rows that it is (`Run.identity`). config: literals by key.
    scores: what makes verdicts. seconds: that it took. failed: why it ended without scores.
    commit: of the code that ran it.
    """

    name: str
    identities: tuple[str, ...]
    seed: int
    config: Mapping[str, str]
    scores: Scores
    seconds: float
    failed: str = ""
    commit: str = ""

    @classmethod
    def read(cls, file: Path) -> Self:
        """Of a file that `write` made.

        Raises:
            ValueError: it is not one; the message names it.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            values["scores"] = Scores(**values["scores"])
            values["identities"] = tuple(values["identities"])
            row = cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is no kept row of a study ({error}): remove it") from error
        if row.name != file.stem:
            raise ValueError(f"{file} is the kept row {row.name}: name it so, or remove it")
        return row

    def write(self, folder: Path) -> None:
        """Writes FOLDER/NAME.json."""
        text = json.dumps(dataclasses.asdict(self), indent=1)
        write_whole(folder / f"{self.name}.json", f"{text}\n")


class KeptRows:
    """The kept rows of a folder, by name."""

    def __init__(self, folder: Path):
        self.folder = folder
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        self.by_name = {file.stem: KeptRow.read(file) for file in files}

    def left(self, runs: Sequence[Run]) -> list[Run]:
        """Those of some runs that are not kept."""
        return [run for run in runs if run.name not in self.by_name]

    def add(self, row: KeptRow) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        row.write(self.folder)
        self.by_name[row.name] = row

    def before(self, run: Run) -> list[KeptRow]:
        """What is kept of a run that is not, of the same row and seed with another config."""
        return [
            row
            for row in self.by_name.values()
            if run.identity in row.identities
            and row.seed == run.seed
            and row.name.endswith("-quick") == run.quick
            and row.name != run.name
        ]

    def changed(self, run: Run) -> str:
        """What is another in the config of a row than when it was kept; '' where it was not."""
        found = self.before(run)
        if not found:
            return ""
        there, here = found[0].config, configuration.flatten(run.config)
        absent = configuration.ABSENT
        return "; ".join(
            f"{key}: {there.get(key, absent)}, now {here.get(key, absent)}"
            for key in sorted(there.keys() | here.keys())
            if there.get(key) != here.get(key)
        )

    def forget(self, run: Run, current: set[str]) -> None:
        """Removes what is kept of the row with another config, unless a run of `current` is it."""
        for row in self.before(run):
            if row.name not in current:
                (self.folder / f"{row.name}.json").unlink(missing_ok=True)
                del self.by_name[row.name]

    def pace(self, runs: Sequence[Run]) -> float:
        """Seconds that the kept ones of some runs took, by those that they were thought to take."""
        known = [(self.by_name[run.name], run) for run in runs if run.name in self.by_name]
        thought = sum(run.seconds for _, run in known)
        return sum(row.seconds for row, _ in known) / thought if thought else 1.0
