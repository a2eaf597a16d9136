"""Clean-up of captions and questions before they are tokenized."""

import dataclasses
import re
from collections.abc import Callable

from vlt.data.video import errors

_PUNCTUATION = re.compile(r'[.!"()*#:;~]')


def blip_caption(text: str) -> str:
    """BLIP's pre_caption: lower case, punctuation replaced by spaces, runs of spaces merged."""
    spaced = _PUNCTUATION.sub(" ", text.lower())
    return re.sub(r"\s{2,}", " ", spaced).strip()


def blip_question(text: str) -> str:
    """BLIP's pre_question: lower case, punctuation removed."""
    return _PUNCTUATION.sub("", text.lower()).rstrip()


def umt(text: str) -> str:
    """UMT's pre_text: lower case, punctuation removed, hyphens and slashes replaced by spaces."""
    bare = re.sub(r"[,.'!?\"()*#:;~]", "", text.lower())
    spaced = re.sub(r"[-/]", " ", bare).replace("<person>", "person")
    return re.sub(r"\s{2,}", " ", spaced).strip()


RULES: dict[str, Callable[[str], str]] = {
    "": str,
    "blip_caption": blip_caption,
    "blip_question": blip_question,
    "umt": umt,
}


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """Turns a text of a manifest into what is tokenized, the prompt not included.

    Attributes:
      rule: a key of `RULES`.
      max_words: number of words that are kept; 0 keeps all. BLIP keeps 30 of a caption and 50 of
        a question.
    """

    rule: str = ""
    max_words: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise errors.unknown("clean-up of texts", self.rule, filter(None, RULES))
        if self.max_words < 0:
            raise ValueError(f"max_words must be >= 0, got {self.max_words}")

    def __call__(self, text: str) -> str:
        text = RULES[self.rule](text)
        return " ".join(text.split(" ")[: self.max_words]) if self.max_words else text
