"""Scores of captions against references: BLEU, METEOR, ROUGE-L and CIDEr, through pycocoevalcap.

The papers' numbers need Java: pycocoevalcap splits texts with Stanford's PTB tokenizer, and METEOR
is a Java program. Without Java, METEOR is left out and texts are split by `light_tokens`; where
they hold neither punctuation nor contractions, as MSVD's do, the other scores are the same.
"""

import functools
import json
import os
import pathlib
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from vlt.data.manifest import READERS, Record, read_manifest
from vlt.writing import write_whole

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
SHOWN = 5  # examples in a message

Tokenized = dict[str, list[str]]  # by id, tokens with a space between


class ScoringError(ValueError):
    """Predictions or references that cannot be scored; the message says which."""


def caption_metrics(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    java: bool | None = None,
) -> dict[str, float]:
    """`METRICS` in percent, as the papers print them (a CIDEr of 1.0 is 100).

    CIDEr weighs words by how few of the videos' references hold them, so it depends on the whole
    set, and is 0 for a single video.

    Args:
      predictions: one caption for each id.
      references: captions of the same ids.
      java: whether to use Java; None where it is installed. Without it METEOR is absent.

    Raises:
      ScoringError: none, other ids than the references', or an id without a reference.
      RuntimeError: a Java program failed.
    """
    _check_ids(predictions, references)
    java = has_java() if java is None else java
    if not java:
        logging.warning("METEOR is left out, since it needs Java; texts are split by light_tokens")
    tokenize = _ptb_tokens if java else _light_tokens_of_all
    ids = list(references)
    found = tokenize({each: [predictions[each]] for each in ids})
    true = tokenize({each: references[each] for each in ids})
    return {name: 100 * float(score) for name, score in _scores(true, found, java).items()}


def light_tokens(text: str) -> list[str]:
    """Lower-case words, without the punctuation around them.

    No PTB tokenizer: contractions stay one word ("isn't", where PTB has "is n't"), and so do signs
    inside of words ("$5").
    """
    words = (word.strip(".,;:!?\"'`()[]{}-") for word in text.lower().split())
    return [word for word in words if word]


@functools.cache
def has_java() -> bool:
    """Whether `java` runs."""
    try:
        return subprocess.run(["java", "-version"], capture_output=True).returncode == 0
    except OSError:
        return False


def references_of(records: Iterable[Record]) -> dict[str, list[str]]:
    """All captions of each video, by the id of the first row that names it."""
    first: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for record in records:
        identity = first.setdefault(record.video, record.id)
        found.setdefault(identity, []).extend(record.captions)
    return found


def write_predictions(path: str | os.PathLike[str], predictions: Mapping[str, str]) -> None:
    """Writes {id: caption} as JSON."""
    text = json.dumps(dict(predictions), indent=1, ensure_ascii=False)
    write_whole(pathlib.Path(path), text + "\n")


def read_predictions(path: str | os.PathLike[str]) -> dict[str, str]:
    """Captions by id: of {id: caption}, or of COCO's list of {"image_id", "caption"}.

    Raises: ScoringError for another form, or an id that comes twice.
    """
    content = _read_json(path)
    if isinstance(content, Mapping):
        pairs = [(str(key), value) for key, value in content.items()]
    else:
        pairs = [(str(_entry(path, e, "image_id")), _entry(path, e, "caption")) for e in content]
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ScoringError(f"{path}: {len(pairs) - len(found)} ids come twice")
    wrong = [key for key, value in found.items() if not isinstance(value, str)]
    if wrong:
        raise ScoringError(f"{path}: not one text each: {_some(wrong)}")
    return found


def read_references(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Captions by id: of a manifest, {id: captions}, or COCO's {"annotations": [...]}.

    Raises:
      ScoringError: JSON of another form. ManifestError: a manifest that cannot be used.
    """
    path = pathlib.Path(path)
    if path.suffix in READERS:
        return references_of(read_manifest(path, check_videos=False))
    content = _read_json(path)
    found: dict[str, list[str]] = {}
    if isinstance(content, Mapping) and "annotations" not in content:
        found = {str(key): [v] if isinstance(v, str) else v for key, v in content.items()}
    else:
        entries = content["annotations"] if isinstance(content, Mapping) else content
        for entry in entries:
            texts = found.setdefault(str(_entry(path, entry, "image_id")), [])
            texts.append(_entry(path, entry, "caption"))
    for key, texts in found.items():
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            raise ScoringError(f"{path}: the captions of {key} are {texts!r:.80}, no texts")
    return found


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        content = json.loads(pathlib.Path(path).read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ScoringError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, (list, Mapping)):
        raise ScoringError(f"{path}: holds neither an object nor a list")
    return content


def _entry(path: str | os.PathLike[str], entry: Any, key: str) -> Any:
    if not isinstance(entry, Mapping) or key not in entry:
        raise ScoringError(f"{path}: an entry has no {key!r}: {entry!r:.80}")
    return entry[key]


def _check_ids(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    wrong = {
        "without references": [each for each in predictions if each not in references],
        "without a prediction": [each for each in references if each not in predictions],
        "with an empty list of references": [key for key, texts in references.items() if not texts],
    }
    told = [f"{len(ids):,} ids {what}: {_some(ids)}" for what, ids in wrong.items() if ids]
    if told:
        raise ScoringError("; ".join(told))
    if not predictions:
        raise ScoringError("there are no predictions")


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")


def _light_tokens_of_all(texts: Mapping[str, Sequence[str]]) -> Tokenized:
    return {each: [" ".join(light_tokens(t)) for t in listed] for each, listed in texts.items()}


def _ptb_tokens(texts: Mapping[str, Sequence[str]]) -> Tokenized:
    """pycocoevalcap's PTBTokenizer, without the file it writes into its package's folder."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = pathlib.Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    # A text is a line: none of Unicode's line ends may stay in it.
    lines = [" ".join(text.split()) for listed in texts.values() for text in listed]
    done = subprocess.run(
        [*command, "-preserveLines", "-lowerCase"],
        input="".join(f"{line}\n" for line in lines).encode(),
        capture_output=True,
    )
    tokenized = done.stdout.decode().split("\n")[:-1]
    if done.returncode or len(tokenized) != len(lines):
        raise RuntimeError(f"the PTB tokenizer failed: {done.stderr.decode()[-1000:]}")
    kept = iter(
        " ".join(w for w in line.split() if w not in ptbtokenizer.PUNCTUATIONS)
        for line in tokenized
    )
    return {each: [next(kept) for _ in listed] for each, listed in texts.items()}


def _scores(references: Tokenized, predictions: Tokenized, java: bool) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, _ = Bleu(4).compute_score(references, predictions, verbose=0)
    scores = {f"BLEU-{n}": score for n, score in enumerate(bleu, 1)}
    if java:
        scores["METEOR"] = _meteor(references, predictions)
    scores["ROUGE-L"], _ = Rouge().compute_score(references, predictions)
    scores["CIDEr"], _ = Cider().compute_score(references, predictions)
    return scores


def _meteor(references: Tokenized, predictions: Tokenized) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    meteor = Meteor()
    try:
        return meteor.compute_score(references, predictions)[0]
    except (OSError, ValueError) as error:
        meteor.lock.release()  # else its __del__ waits for ever
        meteor.meteor_p.kill()
        said = meteor.meteor_p.stderr.read().decode()[-1000:]
        raise RuntimeError(f"METEOR failed: {said or error}") from error
