"""What makes batches of dialogues for a chat model, of a config."""

from pathlib import Path

from ml_collections import ConfigDict

from vlt.data.chat_batches import ChatBatches
from vlt.models.chat import ChatModel


def chat_batches(config: ConfigDict, module: ChatModel, folder: Path) -> ChatBatches:
    """Rows of dialogues about videos of `model.frames` frames, by the template of `config.task`.

    Raises:
        ValueError: no such folder, more tokens than the model has embeddings, a context or a
            template that cannot be, or a Q-Former that reads instructions.
    """
    spec, task, context = module.spec, config.task, config.model.context
    if spec.instructed:
        raise ValueError("a Q-Former that reads instructions (InstructBLIP) is not trained here")
    if context > spec.text.context:
        raise ValueError(
            f"model.context={context}: the language model has {spec.text.context} positions"
        )
    slots = module.slots(config.model.frames)
    try:
        made = ChatBatches.load(folder, task.dialogue_template, task.spacing, slots, context)
    except FileNotFoundError as error:
        raise ValueError(f"model.tokenizer: {error}") from error
    if made.size > spec.text.vocab:
        raise ValueError(
            f"the tokenizer of {folder} has {made.size} tokens, but the language model has "
            f"embeddings for {spec.text.vocab}: it is another model's"
        )
    return made
