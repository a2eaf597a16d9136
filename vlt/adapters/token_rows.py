"""Trains only those words of a frozen language model that were added to its vocabulary.

LLaVA and BT-Adapter add tokens around an image or a video and train only their embeddings, in a
table of 32,006 rows (Liu et al., Section 3.4).
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from vlt.models.points import Method
from vlt.models.spec import Spec


@dataclasses.dataclass(frozen=True)
class TokenRows(Method):
    """The last rows of the table of words are a leaf of their own, text/token_rows [r, d].

    They are taken out of text/token_embedding/embedding and, when merged, put back.

    rows: r, the number of tokens that were added last.

    Raises:
        ValueError: rows below 1.
    """

    name: ClassVar[str] = "token_rows"
    needs: ClassVar[frozenset[str]] = frozenset({"language_model"})
    text_needs: ClassVar[frozenset[str]] = frozenset()

    rows: int = 2

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"token_rows.rows must be >= 1, got {self.rows}")

    @property
    def towers(self) -> tuple[str, ...]:
        return ("text",)

    @property
    def word_rows(self) -> int:
        return self.rows

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError where nothing is left of the table."""
        if self.rows >= spec.text.vocab:
            raise ValueError(
                f"token_rows.rows={self.rows}: fewer than the {spec.text.vocab} words there are"
            )

    def init_from_backbone(self, params: dict, spec: Spec) -> dict:
        """The rows start as they are in the table."""
        text = params["text"]
        table = text["token_embedding"]["embedding"]
        if len(table) < spec.text.vocab:
            return params  # the model was not loaded: its table lacks these rows
        table, rows = table[: -self.rows], table[-self.rows :]
        text = text | {"token_embedding": {"embedding": table}, "token_rows": rows}
        return params | {"text": text}

    @property
    def mergeable(self) -> bool:
        return True

    def fold_for_inference(self, params: dict) -> tuple[Method | None, dict]:
        """None, and the tree with the whole table."""
        text = dict(params["text"])
        rows = text.pop("token_rows")
        table = jnp.concatenate([text["token_embedding"]["embedding"], rows])
        return None, params | {"text": text | {"token_embedding": {"embedding": table}}}


METHOD = TokenRows
