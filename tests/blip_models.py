"""Small transformers BLIP models with random weights, and the same under the authors' names."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    PreTrainedModel,
)

CLASSES = {
    "captioner": BlipForConditionalGeneration,
    "retriever": BlipForImageTextRetrieval,
    "answerer": BlipForQuestionAnswering,
}
WORDS, DEC, ENC, SEP = 108, 108, 109, 102
IMAGE, PATCH, CONTEXT = 32, 8, 20
HEADS = ("visual.heads=4", "text.heads=3")

# From transformers' names to the authors': the reverse of the converter's table.
_AUTHORS = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding$", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual_encoder.patch_embed.proj."),
    (r"^vision_model\.post_layernorm\.", "visual_encoder.norm."),
    (r"^vision_model\.encoder\.layers\.", "visual_encoder.blocks."),
    (r"\.self_attn\.qkv\.", ".attn.qkv."),
    (r"\.self_attn\.projection\.", ".attn.proj."),
    (r"\.layer_norm([12])\.", r".norm\1."),
)


def blip(kind: str, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A model whose tensors all differ from their initial values. config: passed to `BlipConfig`.

    Values for which transformers' defaults differ from BLIP's own code are set explicitly.
    """
    width = 48 if kind == "answerer" else 32  # transformers requires the text's
    vision = {
        "hidden_size": width,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": IMAGE,
        "patch_size": PATCH,
        "layer_norm_eps": 1e-6,
    }
    text = {
        "vocab_size": ENC + 1,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": DEC,
        "sep_token_id": SEP,
        "eos_token_id": SEP,
        "pad_token_id": 0,
        "encoder_hidden_size": width,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "label_smoothing": 0.1,
    }
    model = CLASSES[kind](
        BlipConfig(
            text_config=text | config.pop("text_config", {}),
            vision_config=vision | config.pop("vision_config", {}),
            image_text_hidden_size=24,
            **config,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Embeddings small enough for the epsilon of their norm to matter.
            noise = 0.02 if "embedding" in name else 0.2
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def authors_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state dict as BLIP's authors save it, with second names and position_ids."""
    state = {_authors_name(name): tensor for name, tensor in model.state_dict().items()}
    for text in ("text_encoder.", "text_decoder.bert."):
        table = state.get(f"{text}embeddings.position_embeddings.weight")
        if table is not None:
            state[f"{text}embeddings.position_ids"] = torch.arange(len(table))[None]
    if "itm_head.weight" in state:
        state |= _training_of_a_retriever(state)
    return state


def _authors_name(name: str) -> str:
    for pattern, replacement in _AUTHORS:
        name = re.sub(pattern, replacement, name)
    return name


def _training_of_a_retriever(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    twice = {
        name.replace(".", "_m.", 1): tensor
        for name, tensor in state.items()
        if not name.startswith("itm_head")
    }
    queues = {
        "temp": torch.tensor(0.05),
        "image_queue": torch.zeros(24, 8),
        "text_queue": torch.zeros(24, 8),
        "idx_queue": torch.full((1, 8), -100),
        "ptr_queue": torch.zeros(1, dtype=torch.long),
    }
    return twice | queues


def bert_words(path: Path, count: int = WORDS) -> str:
    """Writes a small vocab.txt whose special tokens have BERT's ids, and returns its path."""
    words = ["[PAD]", *(f"[unused{n}]" for n in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += ["a", "dog", "##s", "."]
    words += [f"word{n}" for n in range(count - len(words))]
    path.write_text("\n".join(words[:count]) + "\n")
    return str(path)
