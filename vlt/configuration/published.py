"""What is told of a published checkpoint that configs ask for, as `checkpoints/NAME`."""

import dataclasses
from pathlib import Path

FOLDER = "checkpoints"
HUB = "https://huggingface.co"


@dataclasses.dataclass(frozen=True)
class Published:
    """A checkpoint to convert.

    Attributes:
        name: of its folder in `checkpoints`. about: what it is.
        family: its layout, of `vlt.convert`. licence: of the weights.
        url: of the file, or of the page that has it. file: its name; '' where none is published.
        options: what `vlt convert` is given beside source and target.
        size: bytes of the converted weights, float32; 0 where that is not known. sha256: of the
            file, where its address gives it; '' where it is not known.
        note: what else to know.
    """

    name: str
    about: str
    family: str
    licence: str
    url: str
    file: str
    options: str
    size: int
    sha256: str = ""
    note: str = ""

    @property
    def folder(self) -> Path:
        """Where configs look for it."""
        return Path(FOLDER) / self.name

    @property
    def is_chat(self) -> bool:
        """Whether it is a chat model, made of parts that `options` name."""
        return self.options.startswith("--chat")

    @property
    def command(self) -> str:
        """What converts it; '' where there is nothing to convert."""
        if self.is_chat:
            return f"vlt convert {self.folder} {self.options}"
        return f"vlt convert {self.file} {self.folder} {self.options}".rstrip() if self.file else ""
