"""What is known of a published checkpoint that configs ask for as `checkpoints/NAME`."""

import dataclasses
from pathlib import Path

FOLDER = "checkpoints"
HUB = "https://huggingface.co"


@dataclasses.dataclass(frozen=True)
class Published:
    """A checkpoint to convert.

    Attributes:
        name: name of its folder in `checkpoints`. about: what it is.
        family: its layout in `vlt.convert`. licence: licence of the weights.
        url: address of the file, or of the page that has it. file: the file's name; '' if none is
            published.
        options: what `vlt convert` is given besides source and target.
        size: bytes of the converted weights in float32; 0 if unknown. sha256: that of the file, if
            its address contains it; '' if unknown.
        note: anything else worth knowing.
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
        """Whether it is a chat model, made of parts named in `options`."""
        return self.options.startswith("--chat")

    @property
    def command(self) -> str:
        """The command that converts it; '' if there is nothing to convert."""
        if self.is_chat:
            return f"vlt convert {self.folder} {self.options}"
        return f"vlt convert {self.file} {self.folder} {self.options}".rstrip() if self.file else ""
