"""Rows that were run, one JSON file each, from which a study resumes where it was stopped."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

from vlt import configuration
from vlt.storage.files import write_whole
from vlt.study.plan import Run
from vlt.study.verdict import Scores


@dataclasses.dataclass(frozen=True)
class KeptRow:
    """What is kept of a run.

    name: name of the file. identities: those of the rows it is a run of (`Run.identity`).
    config: literals by key. scores: what verdicts are made from. seconds: how long it took.
    failed: why it ended without scores. commit: the commit of the code that ran it.
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
        """Reads a file that `write` made.

        Raises:
            ValueError: it is not such a file; the message names it.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            values["scores"] = Scores(**values["scores"])
            values["identities"] = tuple(values["identities"])
            row = cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is not a kept row of a study ({error}): remove it") from error
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
        """The runs that are not kept."""
        return [run for run in runs if run.name not in self.by_name]

    def add(self, row: KeptRow) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        row.write(self.folder)
        self.by_name[row.name] = row

    def before(self, run: Run) -> list[KeptRow]:
        """The kept rows with the identity and seed of a run, but with another config."""
        return [
            row
            for row in self.by_name.values()
            if run.identity in row.identities
            and row.seed == run.seed
            and row.name.endswith("-quick") == run.quick
            and row.name != run.name
        ]

    def changed(self, run: Run) -> str:
        """How the config of a run differs from when its row was kept; '' if it was not kept."""
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

    def forget(self, run: Run, current: Collection[str]) -> None:
        """Removes the kept rows of a run with another config, unless `current` names them."""
        for row in self.before(run):
            if row.name not in current:
                (self.folder / f"{row.name}.json").unlink(missing_ok=True)
                del self.by_name[row.name]

    def pace(self, runs: Sequence[Run]) -> float:
        """The seconds that kept runs took as a multiple of their estimate; 1 if none are kept."""
        known = [(self.by_name[run.name], run) for run in runs if run.name in self.by_name]
        thought = sum(run.seconds for _, run in known)
        return sum(row.seconds for row, _ in known) / thought if thought else 1.0
