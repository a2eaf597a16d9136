"""Builds a config's tokenizer, which makes batches of texts or dialogues."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vlt.data.chat_batches import ChatBatches
from vlt.data.text.chat_tokenizer import ChatTokenizer
from vlt.data.text.instructions import Instructions
from vlt.data.text.tokenize import NoTexts, Tokenizer
from vlt.model_io.build import instruction_length
from vlt.model_io.folder import QFORMER
from vlt.models.chat import ChatModel
from vlt.models.spec import EncoderSpec, TextSpec
from vlt.models.video_model import VideoModel


def make_tokenizer(config: ConfigDict, module: VideoModel, folder: Path) -> Any:
    """The model's tokenizer: `ChatBatches` for a chat model, `NoTexts` for a vision tower alone.

    Raises:
        ValueError: no such folder, or more tokens, or longer texts, than the language model or text
            tower has embeddings for; for a chat model also an invalid template, or no tokenizer for
            a Q-Former that reads questions.
    """
    if isinstance(module.spec, EncoderSpec):
        return NoTexts()
    text, context = module.spec.text, config.model.context
    chat = isinstance(module, ChatModel)
    tower = "language model" if chat else "text tower"
    if context > (longest := module.longest_text):
        names = ", ".join(method.name for method in module.methods if method.text_positions)
        taken = f" beside {text.context - longest} of {names}" if names else ""
        raise ValueError(
            f"model.context={context}: the model's texts have at most {longest} tokens{taken}"
        )
    if isinstance(text, TextSpec) and text.whole and context < text.context:
        raise ValueError(
            f"model.context={context}: the text tower reads the last of {text.context} tokens, "
            "which all texts are filled up to; set it to that"
        )
    try:
        made: Any = ChatTokenizer.load(folder) if chat else Tokenizer.load(folder, context)
    except FileNotFoundError as error:
        raise ValueError(f"model.tokenizer: {error}") from error
    if made.size > text.vocab:
        raise ValueError(
            f"the tokenizer of {folder} has {made.size} tokens, but the model's {tower} has "
            f"embeddings for {text.vocab}: it is another model's"
        )
    return _chat_batches(config, module, made, folder) if isinstance(module, ChatModel) else made


def _chat_batches(
    config: ConfigDict, module: ChatModel, tokenizer: ChatTokenizer, folder: Path
) -> ChatBatches:
    """Rows of dialogues about videos of `model.frames` frames, by the template of `config.task`."""
    spec, task, context = module.spec, config.task, config.model.context
    instructions = None
    if spec.instructed and spec.qformer is not None:
        length = instruction_length(spec, context)
        instructions = Instructions(folder / QFORMER, spec.qformer.vocab, length)
    slots = module.slots(config.model.frames)
    return ChatBatches(
        tokenizer, task.dialogue_template, task.spacing, slots, context, instructions
    )
