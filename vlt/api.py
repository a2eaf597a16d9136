"""`vlt.load(path)`: a model folder as an object for videos and texts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from vlt.arguments import (
    as_paths,
    as_texts,
    check_text,
    whole_number,
)
from vlt.configuration.forms import misfit
from vlt.data.text.chat_tokenizer import ChatTokenizer
from vlt.data.text.prompts import Turn
from vlt.data.text.tokenize import Tokenizer
from vlt.inference.dialogue import Dialogue, Seen
from vlt.inference.ranking import candidate_losses
from vlt.inference.speech import Speech, check_rows
from vlt.inference.watching import Watcher
from vlt.loaded import Model, VideoCaptioner, VideoTextModel, VideoTokens
from vlt.model_io.folder import QFORMER, ModelConfig, ModelFolderError
from vlt.model_io.loading import LoadedModel, load_folder
from vlt.models.chat import ChatModel
from vlt.models.spec import ChatSpec, EncoderSpec
from vlt.pytrees.fields import shown
from vlt.storage.trees import first_line


class VideoChat(Model):
    """A chat model: LLaVA, MiniGPT-4 or InstructBLIP, with BT-Adapter or without."""

    def __init__(
        self,
        module: ChatModel,
        params: dict[str, Any],
        config: ModelConfig,
        tokenizer: ChatTokenizer,
        words: Path,
    ):
        """words: folder of the Q-Former's tokenizer, if the Q-Former reads questions.

        Raises:
            ValueError: the tokenizer is not the language model's, or `words` not the Q-Former's.
        """
        super().__init__(module, params, config, tokenizer)
        check_rows(tokenizer.size, module.spec.text.vocab)
        self._watcher = Watcher(module, self.params, words)

    def chat(
        self,
        video: Any = None,
        frames: int | None = None,
        template: str | None = None,
        spacing: str = "train",
    ) -> Dialogue:
        """Starts a dialogue about one or more videos: files, or frames [b, t, H, W, 3].

        Args:
            frames: number of frames to read from a file; the folder's by default.
            template: one of vlt.data.text.prompts; by default that of the checkpoint's family.
            spacing: one of vlt.data.text.chat_tokenizer.

        Raises:
            ValueError: an unknown spacing, a template that is unknown or not the checkpoint's, or
                frames that the model is not for.
            VideoError: a file cannot be read; the message names it.
        """
        speech = self._speech(template, spacing)
        dialogue = Dialogue(speech, self.params, self._watcher, self._seen)
        if video is not None:
            dialogue.show(video, frames)
        return dialogue

    def generate(
        self,
        frames: Any,
        prompt: Any,
        template: str | None = None,
        spacing: str = "train",
        seed: int = 0,
        **search: Any,
    ) -> list[str]:
        """Answers a question about each video of [b, t, H, W, 3], or about each file, in batches.

        Args:
            prompt: the question, or one for each video.
            seed: seeds the sampling. search: fields of `vlt.models.search.Search`.

        Raises:
            ValueError, VideoError: as `chat` and `Dialogue.stream`.
        """
        speech, questions = self._speech(template, spacing), as_texts(prompt)
        if questions is None:
            raise ValueError(f"prompt={shown(prompt)}: a text, or one for each video, is needed")

        def answer(videos: Any) -> list[str]:
            seen = self._watcher.see(self._video(videos))
            asked = questions * len(seen) if len(questions) == 1 else questions
            if len(asked) != len(seen):
                raise ValueError(f"{len(asked)} questions about {len(seen)} videos")
            return self._answers(speech, seen, asked, seed, search)

        if len(questions) > 1 and as_paths(frames) is not None:
            frames = self.read_videos(frames)
        found: list[str] = self._each_video(answer, frames)
        return found

    def answer_all(
        self,
        frames: Any,
        questions: Sequence[str],
        template: str | None = None,
        spacing: str = "train",
        seed: int = 0,
        **search: Any,
    ) -> list[list[str]]:
        """Answers all questions about each video of [b, t, H, W, 3], each asked alone: b lists.

        Each video is encoded once. The other arguments are as in `generate`.
        """
        speech, seen = self._speech(template, spacing), self._watcher.see(self._video(frames))
        asked = [[question] * len(seen) for question in questions]
        found = [self._answers(speech, seen, each, seed, search) for each in asked]
        return [list(answers) for answers in zip(*found, strict=True)]

    def choose(
        self,
        frames: Any,
        prompt: str,
        candidates: Sequence[str],
        template: str | None = None,
        spacing: str = "train",
    ) -> list[str]:
        """Picks the likeliest candidate answer for each video of [b, t, H, W, 3], or for each file.

        Likelihoods are those of whole answers (`vlt.inference.ranking.candidate_losses`).

        Raises:
            ValueError, VideoError: as `generate`; also without candidates, or if one is not a text.
        """
        speech = self._speech(template, spacing)
        listed = as_texts(candidates)
        if listed is None or isinstance(candidates, str):
            raise ValueError(f"candidates={shown(candidates)}: several texts are needed")
        check_text(prompt, "prompt")

        def choice(videos: Any) -> list[str]:
            seen = self._watcher.see(self._video(videos))
            tokens = self._watcher.tokens(seen, [prompt] * len(seen))
            losses = [
                candidate_losses(speech, self.params, tokens[row : row + 1], prompt, listed)
                for row in range(len(tokens))
            ]
            return [listed[int(each.argmin())] for each in losses]

        found: list[str] = self._each_video(choice, frames)
        return found

    def _answers(
        self,
        speech: Speech,
        seen: jax.Array,
        questions: list[str],
        seed: int,
        search: dict[str, Any],
    ) -> list[str]:
        tokens = self._watcher.tokens(seen, questions)
        counts = [tokens.shape[1]]
        prompts = [speech.prompt([Turn(text, videos=1)], counts) for text in questions]
        options = speech.search(search, max(map(len, prompts)))
        return speech.answers(self.params, prompts, tokens, options, jax.random.key(seed))

    def _speech(self, template: str | None, spacing: str) -> Speech:
        module: Any = self.module
        return Speech.of(module, self._tokenizer, self.config.family, template, spacing)

    def _seen(self, videos: Any, frames: int | None) -> list[Seen]:
        """Encodes each video by itself, so that any number of them needs only one program."""
        paths = as_paths(videos)
        if paths is not None:
            read = ((path, self.read_videos([path], frames)) for path in paths)
            return [Seen(path, self._watcher.see(self._video(video))) for path, video in read]
        video = self._video(videos)
        return [
            Seen(f"video {row + 1}", self._watcher.see(video[row : row + 1]))
            for row in range(len(video))
        ]


KINDS: dict[str, type[Model]] = {  # by kind of spec
    "dual_encoder": VideoTextModel,
    "retriever": VideoTextModel,
    "captioner": VideoCaptioner,
    "chat": VideoChat,
    "encoder": VideoTokens,
}


def load(
    path: str | Path,
    *,
    frames: int | None = None,
    frame_norm: bool | None = None,
    methods: Any = (),
    dtype: str = "float32",
    weights: str = "",
    parts: Any = (),
) -> Any:
    """Loads a converted, exported or packaged model ("tiny_clip").

    Args:
        frames: number of frames that the model takes and that are read from files; the folder's by
            default.
        frame_norm: whether embeddings of frames are normalised to unit length before they are
            averaged; by default the folder's setting, which the model is evaluated with.
        methods: names of methods to add, or {name: options}: "tome" merges tokens in the model as
            it is. Leaves that a method adds start as in training, and are named in the log.
        dtype: dtype of activations, 'float32' or 'bfloat16'.
        weights: how a chat model's language model is held: as it is stored, or in fewer bits, as
            'bfloat16' or 'int8' (vlt/models/narrow.py).
        parts: pairs of a path and the model folder that the leaves under it come from, such as
            (("visual/btadapter", "tiny_branch"),) with methods=("btadapter",).

    Returns a `VideoTextModel`, a `VideoCaptioner`, a `VideoChat` or, for a lone vision tower, a
    `VideoTokens`, depending on what the folder holds.

    Raises:
        ModelFolderError: the folder is absent, half written, not what its config.json says, or has
            leaves for another number of frames.
        ValueError: not a path, a kind of model that has no such object, an unknown method, option
            or dtype, parts that do not fit, or less memory than a chat model needs.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(
            f"path must be a model folder, or a name such as 'tiny_clip', got {shown(path)}"
        )
    if frames is not None:
        frames = whole_number("frames", frames)
    if frame_norm not in (None, True, False):
        raise ValueError(f"frame_norm must be True or False, got {shown(frame_norm)}")
    if wanted := misfit("model.parts", parts):
        raise ValueError(f"parts={shown(parts)}: must be {wanted}")
    return as_model(load_folder(str(path), frames, frame_norm, methods, dtype, weights, parts))


def as_model(loaded: LoadedModel) -> Any:
    """The object for a model that is already in memory.

    Raises:
        ModelFolderError: its tokenizer is absent or damaged.
        ValueError: a kind of model that has no such object.
    """
    spec = loaded.config.spec
    if spec.kind not in KINDS:
        raise ValueError(f"the model's kind is {spec.kind}; it must be one of {', '.join(KINDS)}")
    module: Any = loaded.module
    parts = (module, loaded.params, loaded.config)
    try:
        if isinstance(spec, ChatSpec):
            words = ChatTokenizer.load(loaded.tokenizer)
            return VideoChat(*parts, words, loaded.tokenizer / QFORMER)
        if isinstance(spec, EncoderSpec):
            return VideoTokens(*parts, None)
        tokenizer = Tokenizer.load(loaded.tokenizer, module.longest_text)
    except Exception as error:  # damaged files raise errors of any type in the libraries
        raise ModelFolderError(f"{loaded.tokenizer}: {first_line(error)}") from error
    kind: Any = KINDS[spec.kind]
    return kind(*parts, tokenizer)
