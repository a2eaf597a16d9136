"""A dialogue about videos, whose keys and values are kept from one turn to the next."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.data.text.chat_tokenizer import Prompt
from vlt.data.text.prompts import Turn
from vlt.data.text.texts import shown, trimmed
from vlt.inference.speech import Speech, best
from vlt.inference.watching import Watcher
from vlt.models.continuation import (
    Answer,
    Reading,
    bucket,
    padded,
    read,
    read_on,
    with_room,
    write,
)
from vlt.models.search import Search


@dataclasses.dataclass(frozen=True)
class Seen:
    """A video of a dialogue: its name, and what `Watcher.see` kept of it [1, ...]."""

    name: str
    states: jax.Array


class Dialogue:
    """Questions about videos, and a chat model's answers.

    Every answer is the one that the whole dialogue would get if it were read from the start: the
    ids that a longer dialogue shares at its beginning with those already read are not read again.

    Attributes:
        turns: `Turn`s so far.
        videos: names of the videos, including those that the next question will be about.
    """

    def __init__(
        self,
        speech: Speech,
        params: Any,
        watcher: Watcher,
        see: Callable[[Any, int | None], list[Seen]],
    ):
        self._speech, self._params, self._watcher, self._see = speech, params, watcher, see
        self.reset()

    def reset(self) -> None:
        """Starts over, without videos."""
        self.turns: list[Turn] = []
        self._seen: list[Seen] = []
        self._read = np.zeros(0, np.int32)  # what the cache holds, as a `_signature`
        self._reading: Reading | None = None

    @property
    def videos(self) -> list[str]:
        """Names of the videos, in order."""
        return [seen.name for seen in self._seen]

    def show(self, videos: Any, frames: int | None = None) -> None:
        """Shows the videos that the next question is about: files, or frames [b, t, H, W, 3].

        Raises:
            ValueError, VideoError: as `VideoTextModel.encode_video`.
        """
        self._seen += self._see(videos, frames)

    def ask(self, question: str, seed: int = 0, **search: Any) -> str:
        """Returns the answer. search: fields of `vlt.models.search.Search`.

        Raises:
            ValueError: as `stream`.
        """
        return "".join(self.stream(question, seed, **search))

    def stream(self, question: str, seed: int = 0, **search: Any) -> Iterator[str]:
        """Yields the answer piece by piece, as its tokens come; with beams, in one piece.

        Unless the iterator is exhausted, the turn does not count. seed: seeds the sampling.

        Raises:
            ValueError: no question, no video shown yet, a dialogue longer than the model's context,
                more or fewer places than videos, or an invalid search.
        """
        if not isinstance(question, str) or not trimmed(question):
            raise ValueError(f"question={shown(question)}: a text is needed, and not an empty one")
        if not self._seen:
            raise ValueError("no video was shown yet; a dialogue begins with one")
        turn = Turn(question, videos=len(self._seen) - sum(turn.videos for turn in self.turns))
        tokens = [self._watcher.tokens(seen.states, [question]) for seen in self._seen]
        prompt = self._speech.prompt([*self.turns, turn], [x.shape[1] for x in tokens])
        options = self._speech.search(search, len(prompt))
        rng = jax.random.key(seed) if options.method == "nucleus" else None
        yield from self._write(turn, prompt, jnp.concatenate(tokens, 1), options, rng)

    def _write(
        self,
        turn: Turn,
        prompt: Prompt,
        tokens: jax.Array,
        search: Search,
        rng: jax.Array | None,
    ) -> Iterator[str]:
        speech = self._speech
        signature, reading = _signature(prompt), self._read_prompt(prompt, tokens, search)
        words, skipped = padded([(prompt.ids, prompt.video)], bucket(len(prompt)))
        known, unseen = speech.before(words, skipped, search)
        history, told, ids = known.shape[1], "", []
        answers = write(
            speech.module, self._params, reading, known, unseen, search, speech.ending, rng
        )
        for answer in answers:
            if search.method == "beam":
                continue
            ids = best(answer.state, search, speech.ending, history, unseen)[0].tolist()
            if len(text := speech.shown(ids)) > len(told):
                yield text[len(told) :]
                told = text
        if search.method == "beam":
            ids = best(answer.state, search, speech.ending, history, unseen)[0].tolist()
        text = speech.text(ids)
        self._keep(signature, reading, answer, ids, search)
        self.turns.append(dataclasses.replace(turn, answer=text))
        if len(text) > len(told):
            yield text[len(told) :]

    def _read_prompt(self, prompt: Prompt, tokens: jax.Array, search: Search) -> Reading:
        """Reads what was not read yet of the prompt, and a little more, on top of the cache."""
        module, params = self._speech.module, self._params
        reading, self._reading = self._reading, None  # used up
        if module.spec.instructed:
            reading = None  # a video's tokens depend on the question
        known = _common(self._read, _signature(prompt))
        count = bucket(len(prompt) - min(known, len(prompt) - 1))
        end = len(prompt) + (0 if reading is None else int(reading.skipped[0]))
        if reading is None or count > end or count >= bucket(len(prompt)):
            length = bucket(len(prompt))
            words, skipped = padded([(prompt.ids, prompt.video)], length)
            return read(module, params, words, tokens, skipped, bucket(length + search.max_length))
        if reading.room < end + search.max_length:
            reading = with_room(reading, bucket(end + search.max_length))
        words, _ = padded([(prompt.ids, prompt.video)], end)
        words = jax.tree.map(lambda x: x[:, end - count :], words)
        return read_on(module, params, words, tokens, reading, jnp.int32(end))

    def _keep(
        self,
        signature: np.ndarray,
        reading: Reading,
        answer: Answer,
        ids: list[int],
        search: Search,
    ) -> None:
        """Keeps the cache with the answer, except for its last token, which was not read yet."""
        if search.method == "beam":  # beams have a copy of the cache, unless there is just one
            self._read, self._reading = signature, reading if search.beams > 1 else None
            return
        self._read = np.concatenate([signature, np.array(ids[:-1], np.int32)])
        self._reading = reading.replace(cache=answer.cache, end=reading.end + len(ids) - 1)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: template, spacing, and each turn's question, answer and names of videos."""
        names = iter(self.videos)
        turns = [
            {
                "question": turn.question,
                "answer": turn.answer,
                "videos": [next(names) for _ in range(turn.videos)],
            }
            for turn in self.turns
        ]
        return {"template": self._speech.name, "spacing": self._speech.spacing, "turns": turns}


def _signature(prompt: Prompt) -> np.ndarray:
    """[l] ids of words; -1 - n where token n of the videos stands."""
    return np.where(prompt.video < 0, prompt.ids, -1 - prompt.video).astype(np.int32)


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """The length of the prefix that both share."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if differ.size else length
