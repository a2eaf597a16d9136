"""How to speak to a chat model: from questions to prompts, from what it writes to answers."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vlt.data.text.chat_tokenizer import SPACINGS, ChatTokenizer, Prompt
from vlt.data.text.prompts import TEMPLATES, Template, Turn, render, template
from vlt.models.chat import ChatModel
from vlt.models.continuation import (
    Ending,
    bucket,
    padded,
    read,
    searching,
    write,
    written_before,
)
from vlt.models.search import Beams, Search
from vlt.pytrees.fields import from_values, near

# Nothing is sampled unless asked for; beams are those that the published systems had.
DEFAULTS = {"method": "greedy", "max_length": 256, "min_length": 0, "semantics": "4.31"}
DEFAULTS |= {"top_p": 1.0}
PADDED_ROWS = 64  # Hugging Face pads embeddings to a multiple of this
# By family; the first one whose tokens the tokenizer has is used. All are those of inference.
USUAL = {
    "llava": ("video_chatgpt_v1", "llava_v1", "llava_v1_5"),
    "minigpt4": ("minigpt4",),
    "instructblip": ("instructblip",),
    "chat": ("plain",),
}


@dataclasses.dataclass(frozen=True)
class Speech:
    """A chat model's tokenizer, the template of its dialogues and the spacing of their ids."""

    module: ChatModel
    tokenizer: ChatTokenizer
    name: str
    spacing: str

    @classmethod
    def of(
        cls,
        module: ChatModel,
        tokenizer: ChatTokenizer,
        family: str,
        name: str | None = None,
        spacing: str = "train",
    ) -> "Speech":
        """Chooses and checks the template. name: by default the usual one for the family.

        Raises:
            ValueError: a template that is unknown or not for this checkpoint, an unknown spacing,
                or a tokenizer whose number of tokens does not match the model's embeddings.
        """
        if spacing not in SPACINGS:
            raise ValueError(f"spacing={spacing!r}{near(spacing, SPACINGS)}")
        check_rows(tokenizer.size, module.spec.text.vocab)
        fits = [key for key in TEMPLATES if _fits(TEMPLATES[key], tokenizer, family, key)]
        if name is None:
            name = next((key for key in USUAL.get(family, ()) if key in fits), "vicuna_v1_1")
        used = template(name)
        if name not in fits:
            raise ValueError(
                f"template={name!r} is not for this checkpoint, a {family} whose tokenizer has "
                f"{', '.join(_lacking(used, tokenizer)) or 'all its tokens'}"
                f"; those that are: {', '.join(fits)}"
            )
        return cls(module, tokenizer, name, spacing)

    @property
    def template(self) -> Template:
        """The template of this name."""
        return TEMPLATES[self.name]

    def prompt(self, turns: Sequence[Turn], videos: Sequence[int]) -> Prompt:
        """Encodes a dialogue as ids. videos: number of tokens of each video.

        Raises:
            ValueError: it is longer than the model's context, or has not one place for each video.
        """
        pieces = render(self.template, turns)
        prompt = self.tokenizer.encode(pieces, self.template, videos, self.spacing)
        context = self.module.spec.text.context
        if len(prompt) >= context:
            raise ValueError(
                f"a prompt of {len(prompt):,} tokens, {sum(videos):,} of them from videos "
                f"({len(videos)}); the model reads {context:,}, the answer included: ask "
                f"with fewer frames or videos, or in a new dialogue{self._fewer(videos)}"
            )
        return prompt

    def _fewer(self, videos: Sequence[int]) -> str:
        if self.module.spec.tokens != "frames" or not videos:
            return ""
        return f" (a video's tokens are as many as its frames: {videos[0]:,} in the first)"

    def search(self, options: dict[str, Any], taken: int) -> Search:
        """The `Search` for answers, which end with the context at the latest.

        options: fields of `Search`. taken: number of tokens in the longest prompt.
        """
        search: Search = from_values(Search, DEFAULTS | options, "chat", "option")
        left = self.module.spec.text.context - taken
        if search.max_length <= left:
            return search
        return dataclasses.replace(search, max_length=left, min_length=min(search.min_length, left))

    @functools.cached_property
    def ending(self) -> Ending:
        """What ends an answer."""
        stops = self.tokenizer.stops(self.template.stops)
        return Ending(self.tokenizer.end_id, stops)

    def text(self, ids: Sequence[int]) -> str:
        """Decodes ids into an answer, up to what ends it, without surrounding white space."""
        return self.tokenizer.answer(ids, self.template)

    def shown(self, ids: Sequence[int]) -> str:
        """The part of the text that is certain from its first ids."""
        text = self.text(ids).rstrip("\ufffd")  # bytes of a character that is incomplete yet
        longest = max(map(len, self.template.stops), default=1)
        for count in range(longest - 1, 0, -1):  # a stop may have begun
            if any(text.endswith(stop[:count]) for stop in self.template.stops):
                return text[:-count].rstrip()
        return text

    def answers(
        self,
        params: Any,
        prompts: Sequence[Prompt],
        tokens: jax.Array,
        search: Search,
        rng: jax.Array | None,
    ) -> list[str]:
        """Answers to prompts of any lengths, with videos' tokens [b, k, d]: each as if alone."""
        length = bucket(max(map(len, prompts)))
        words, skipped = padded([(prompt.ids, prompt.video) for prompt in prompts], length)
        room = bucket(length + search.max_length)
        reading = read(self.module, params, words, tokens, skipped, room)
        known, unseen = self.before(words, skipped, search)
        every = write(
            self.module, params, reading, known, unseen, search, self.ending, rng, search.max_length
        )
        for answer in every:
            ids = best(answer.state, search, self.ending, known.shape[1], unseen)
        return [self.text(row) for row in ids.tolist()]

    def before(self, words: Any, skipped: jax.Array, search: Search) -> tuple[jax.Array, jax.Array]:
        """`known` and `unseen` of `vlt.models.continuation.begin`."""
        vocab = self.module.spec.text.vocab
        return written_before(words, skipped, search, vocab, self.template.penalize_prompt)


def best(state: Any, search: Search, ending: Ending, history: int, unseen: jax.Array) -> np.ndarray:
    """ids [b, l] of the best answers so far, without the `history` tokens before them."""
    if not isinstance(state, Beams):
        return np.asarray(state.ids[:, 0, history : int(state.length)])
    rules: Any = searching(search, ending, history, unseen, None)
    return np.asarray(rules.result(state)[:, history:])


def check_rows(tokens: int, rows: int) -> None:
    """Raises ValueError if the tokenizer's tokens do not match the model's rows of embeddings."""
    if tokens == rows or (tokens < rows < tokens + PADDED_ROWS and not rows % PADDED_ROWS):
        return
    raise ValueError(
        f"the tokenizer has {tokens:,} tokens and the language model {rows:,} embeddings: they are "
        "of different checkpoints, or tokens were added to one of them alone"
    )


def _lacking(used: Template, tokenizer: ChatTokenizer) -> list[str]:
    return [f"no {name}" for name in (*used.tokens, used.patch) if name and not tokenizer.has(name)]


def _fits(used: Template, tokenizer: ChatTokenizer, family: str, name: str) -> bool:
    own = family in ("minigpt4", "instructblip")
    of_family = name.startswith(family) if own else not name.startswith(("minigpt4", "instruct"))
    return of_family and not _lacking(used, tokenizer)
