"""How texts become ids where the class that a tokenizer folder names is wrong: SigLIP, MetaCLIP 2,
VideoPrism.

All published SigLIP 2 folders name a class that does not lower-case, others pad on the left; the
form written here takes precedence.
"""

import dataclasses
import json
import re
import string
from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.json_files import read_json
from vlt.data.text.tokenize import FORM, Form, Tokenizer, plain_encoder
from vlt.models.spec import TextSpec

_SPARE_ROWS = 64  # of an embedding after the last token; or 1% of all, if more
_ENDS, _PADS = ("<eos>", "</s>"), ("<pad>",)


def write_form(source: str, folder: Path, text: TextSpec) -> None:
    """Writes the form of a text tower's texts into its tokenizer's folder, and tries it.

    Raises ConversionError: no tokenizer.json, no token that ends a text or not the tower's, another
    vocabulary, or a tokenizer that does not load.
    """
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not file.exists():
        raise ConversionError(f"--tokenizer {source}: holds no tokenizer.json, spiece.model or "
                              "tokenizer.model")  # fmt: skip
    named, config = _ids(file), read_json(settings)
    _check_size(source, named, text)
    if text.class_token:  # VideoPrism's: words alone
        form = Form("sentence", pad=text.pad_id)
    else:
        read = _read_last if text.readout == "last" else _read_at_end
        form = read(source, file, named, config)
    settings.write_text(json.dumps(config | {FORM: dataclasses.asdict(form)}, indent=2) + "\n")
    if text.readout == "end" and form.end != text.end_id:
        raise ConversionError(
            f"--tokenizer {source}: a text ends with id {form.end}, but is read at {text.end_id}"
        )
    try:
        Tokenizer.load(folder, text.context)([""])
    except ValueError as error:
        raise ConversionError(f"--tokenizer {source}: does not load: {error}") from error


def write_into_tokenizer(folder: Path, context: int) -> None:
    """Puts the form of a folder's texts into its tokenizer.json itself, so that transformers turns
    them into the same ids, padded to `context`. A folder without a form, or with one that cleans
    nothing, stays as it is."""
    from tokenizers import Regex, normalizers, processors

    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    config = read_json(settings)
    if FORM not in config or not config[FORM]["cleaning"]:
        return
    form, tokenizer = Form(**config.pop(FORM)), plain_encoder(file).backend_tokenizer
    steps: list[Any] = [normalizers.Lowercase()]
    if form.cleaning == "canonical":
        steps += [normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), "")]
        steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    own = [tokenizer.normalizer] if tokenizer.normalizer else []
    tokenizer.normalizer = normalizers.Sequence([*steps, *own])
    end, pad = (tokenizer.id_to_token(number) for number in (form.end, form.pad))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, form.end)]
    )
    tokenizer.save(str(file))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": pad}
    named |= {"padding_side": "right", "model_max_length": context}
    settings.write_text(json.dumps(named, indent=2) + "\n")
    for name in ("spiece.model", "tokenizer.model", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)  # for a class that is no longer named


def _read_last(source: str, file: Path, named: dict[str, int], config: dict[str, Any]) -> Form:
    """SigLIP's form: an end token, but no start token. For a unigram model (T5's), canonical
    texts padded with it; for byte pairs (Gemma's), texts in lower case and a token for padding."""
    end = _named(config, "eos_token", _ENDS, named)
    if end is None:
        raise ConversionError(f"--tokenizer {source}: has no token that ends a text, as </s>")
    if _model(file).get("type") == "Unigram":
        return Form("canonical", end=end, pad=end)
    return Form("lower", end=end, pad=_named(config, "pad_token", _PADS, named) or 0)


def _read_at_end(source: str, file: Path, named: dict[str, int], config: dict[str, Any]) -> Form:
    """MetaCLIP 2's form: the ids that the tokenizer puts around a text, which is not cleaned."""
    try:
        around = plain_encoder(file)("")["input_ids"]
    except ValueError as error:
        raise ConversionError(f"--tokenizer {source}: does not load: {error}") from error
    if not 1 <= len(around) <= 2:
        raise ConversionError(f"--tokenizer {source}: puts ids {around} around a text")
    start = around[0] if len(around) == 2 else None
    pad = _named(config, "pad_token", _PADS, named)
    return Form("", start, around[-1], pad or 0)


def _named(
    config: dict[str, Any], key: str, usual: tuple[str, ...], named: dict[str, int]
) -> int | None:
    """Id of the token that a config names under `key`, else of the first usual one there is."""
    token = config.get(key)
    token = token.get("content") if isinstance(token, dict) else token
    return next((named[name] for name in (token, *usual) if name in named), None)


def _model(file: Path) -> dict[str, Any]:
    model = read_json(file).get("model")
    return model if isinstance(model, dict) else {}


def _ids(file: Path) -> dict[str, int]:
    """{token: id} of a tokenizer.json."""
    try:
        return dict(plain_encoder(file).get_vocab())
    except ValueError as error:
        raise ConversionError(f"{file.name} of --tokenizer: {error}") from error


def _check_size(source: str, named: dict[str, int], text: TextSpec) -> None:
    # T5's class adds words that stand for gaps in a text, which no clean text has.
    own = [index for name, index in named.items() if not re.fullmatch(r"<extra_id_\d+>", name)]
    size = max(own, default=-1) + 1
    if not 0 <= text.vocab - size <= max(_SPARE_ROWS, text.vocab // 100):
        raise ConversionError(
            f"--tokenizer {source}: has {size} tokens, the checkpoint has embeddings for "
            f"{text.vocab}: it is another model's"
        )
