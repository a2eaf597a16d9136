"""SigLIP and MetaCLIP 2 as transformers has them: converted, run, and written back."""

import json

import jax
import numpy as np
import pytest
import siglip_files
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import MetaClip2Config, MetaClip2Model, SiglipConfig, SiglipModel

import vlt
from vlt.convert import convert, reverse
from vlt.data.text.tokenize import Tokenizer as Words
from vlt.model_io.folder import read_model_config

SIDE, PATCH = 28, 14
RNG = np.random.default_rng(0)
PICTURES = RNG.uniform(-1, 1, (2, 1, SIDE, SIDE, 3)).astype(np.float32)
TEXTS = ["a dog runs.", "The CAT sleeps, twice"]


def words_and_ends(folder, size=300):
    """A tokenizer like XLM-V's: single pieces, <s> before a text and </s> after it."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *siglip_files.LETTERS]
    pieces += [f"<extra{i}>" for i in range(size - len(pieces))]
    scores = [(piece, 0.0 if i < 4 else -1.0 - i / 99) for i, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, 3, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "XLMRobertaTokenizer", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    return folder


def sizes(width, heads, **fields):
    return {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "vocab_size": 300,
        "image_size": SIDE,
        "patch_size": PATCH,
    } | fields


def siglip1():
    text = sizes(24, 2, max_position_embeddings=16, projection_size=32)
    return SiglipModel(SiglipConfig(vision_config=sizes(32, 4), text_config=text))


def metaclip2():
    text = sizes(24, 2, max_position_embeddings=20, hidden_act="gelu", eos_token_id=2)
    vision = sizes(40, 2, hidden_act="gelu")
    config = MetaClip2Config(vision_config=vision, text_config=text, projection_dim=20)
    return MetaClip2Model(config)


KINDS = {
    "siglip": (siglip1, siglip_files.single_pieces, SiglipModel),
    "metaclip2": (metaclip2, words_and_ends, MetaClip2Model),
}


def embeddings(model, ids):
    """transformers' unit vectors for the pictures and for texts with these ids."""
    pixels = torch.tensor(np.moveaxis(PICTURES[:, 0], -1, 1))
    with torch.no_grad():
        out = model.eval()(input_ids=torch.tensor(ids).long(), pixel_values=pixels)
    return out.image_embeds.numpy(), out.text_embeds.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_both_ways(name, tmp_path):
    make, tokenizer, kind = KINDS[name]
    torch.manual_seed(0)
    model = make()
    for leaf in model.parameters():
        torch.nn.init.normal_(leaf, std=0.3)
    model.save_pretrained(tmp_path / "hf")
    tokenizer(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "model")
    ours = vlt.load(tmp_path / "model")
    context = ours.module.spec.text.context
    ids = Words.load(tmp_path / "model" / "tokenizer", context)(TEXTS)
    theirs = embeddings(model, ids)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(ours.encode_video(PICTURES), theirs[0], atol=1e-5)
        np.testing.assert_allclose(ours.encode_text(TEXTS), theirs[1], atol=1e-5)
    reverse(tmp_path / "model", tmp_path / "back")
    again, loading = kind.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(loading.values()), loading
    np.testing.assert_array_equal(embeddings(again, ids)[0], theirs[0])
    np.testing.assert_array_equal(embeddings(again, ids)[1], theirs[1])
    convert(tmp_path / "back", tmp_path / "model2")
    assert read_model_config(tmp_path / "model2").spec == read_model_config(tmp_path / "model").spec
