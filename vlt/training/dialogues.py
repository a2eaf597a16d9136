"""Dialogues for the training of a chat model: its tokenizer, its template, its video's tokens."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from vlt.data.chat_tokenizer import ChatTokenizer
from vlt.data.dialogue_rows import DialogueTokenizer
from vlt.data.prompts import template
from vlt.model_io.build import abstract_params, example_inputs, forward
from vlt.models.spec import ChatSpec
from vlt.models.video_model import VideoModel


def dialogue_tokenizer(config: ConfigDict, module: VideoModel, folder: Path) -> DialogueTokenizer:
    """What makes rows of dialogues about videos of `model.frames` frames.

    Raises:
        ValueError: no such folder, another number of tokens than the model has embeddings, or a
            Q-Former that reads instructions.
    """
    spec, context = module.spec, config.model.context
    assert isinstance(spec, ChatSpec)
    if spec.instructed:
        raise ValueError("a Q-Former that reads instructions (InstructBLIP) is not trained here")
    try:
        tokenizer = ChatTokenizer.load(folder)
    except FileNotFoundError as error:
        raise ValueError(f"model.tokenizer: {error}") from error
    if not tokenizer.size <= spec.text.vocab:
        raise ValueError(
            f"the tokenizer of {folder} has {tokenizer.size} tokens, but the language model has "
            f"embeddings for {spec.text.vocab}: it is another model's"
        )
    video, *_ = example_inputs(spec, config.model.frames, context)
    tokens, _ = jax.eval_shape(forward(module, "encode_video"), abstract_params(module), video)
    used = template("minigpt4_training" if spec.qformer else "vicuna_v1_1")
    return DialogueTokenizer(tokenizer, used, tokens.shape[1], context)
