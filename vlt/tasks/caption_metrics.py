"""Scores of captions against references: BLEU, METEOR, ROUGE-L and CIDEr, through pycocoevalcap.

The papers' numbers need Java: pycocoevalcap splits texts with Stanford's PTB tokenizer, and METEOR
is a Java program. Without Java, METEOR is left out and texts are split by `light_tokens`; where
they contain neither punctuation nor contractions, as in MSVD, the other scores are the same.
"""

import functools
import json
import os
import pathlib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from vlt.data.manifests.manifest import READERS, Record, read_manifest
from vlt.data.text.text_files import TextFileError, read_json
from vlt.data.text.texts import checked_texts, shown, wrong_characters
from vlt.storage.files import write_whole

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
SHOWN = 5  # examples in a message
MOST_WORDS = 2000  # per text; the time of ROUGE-L grows with their square
# The Java programs start in a second or two and take less than a tenth of that per text.
START_TIME, TIME_OF_A_TEXT = 120.0, 0.2  # seconds after which they count as hanging

Tokenized = dict[str, list[str]]  # by id, texts of tokens separated by spaces


class ScoringError(ValueError):
    """Predictions or references that cannot be scored; the message says which."""


def caption_metrics(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    java: bool | None = None,
) -> dict[str, float]:
    """`METRICS` in percent, as the papers print them (a CIDEr of 1.0 is 100).

    CIDEr weights words by how few of the videos' references contain them, so it depends on the
    whole set, and is 0 for a single video.

    Args:
      predictions: one caption for each id.
      references: captions of the same ids.
      java: whether to use Java; None uses it if it is installed. Without it METEOR is absent.

    Raises:
      ScoringError: no predictions, other ids than the references', an id without a reference,
        references without a word, or a text with invalid characters or over `MOST_WORDS` words.
      RuntimeError: a Java program failed, or did not end in time.
    """
    _check_ids(predictions, references)
    _check_texts("prediction", {each: [text] for each, text in predictions.items()})
    _check_texts("reference", references)
    java = has_java() if java is None else java
    if not java:
        logging.warning("METEOR is left out, since it needs Java; texts are split by light_tokens")
    tokenize = _ptb_tokens if java else _light_tokens_of_all
    ids = list(references)
    found = tokenize({each: [predictions[each]] for each in ids})
    true = tokenize({each: references[each] for each in ids})
    if not any(text for texts in true.values() for text in texts):
        raise ScoringError("no reference holds a word")
    return {name: 100 * float(score) for name, score in _scores(true, found, java).items()}


def light_tokens(text: str) -> list[str]:
    """Lower-case words, without the punctuation around them.

    Not a PTB tokenizer: contractions stay one word ("isn't", where PTB has "is n't"), and so do
    words with symbols ("$5").
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
    """Reads captions by id, from {id: caption} or COCO's list of {"image_id", "caption"}.

    Raises: ScoringError for another form, or a duplicate id.
    """
    content = _read_json(path)
    if isinstance(content, Mapping):
        pairs = list(content.items())
    else:
        pairs = [(_image_id(path, e), _entry(path, e, "caption")) for e in content]
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [i for i, count in Counter(i for i, _ in pairs).items() if count > 1]
        raise ScoringError(f"{path}: {len(twice)} ids come twice: {_some(twice)}")
    wrong = [key for key, value in found.items() if not isinstance(value, str)]
    if wrong:
        raise ScoringError(f"{path}: must have one text each: {_some(wrong)}")
    return found


def read_references(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Reads captions by id, from a manifest, {id: captions}, or COCO's {"annotations": [...]}.

    Raises:
      ScoringError: JSON of another form. ManifestError: a manifest that cannot be used.
    """
    path = pathlib.Path(path)
    if path.suffix in READERS:
        return references_of(read_manifest(path, check_videos=False))
    content = _read_json(path)
    found: dict[str, Any] = {}
    if isinstance(content, Mapping) and "annotations" not in content:
        found = dict(content)
    else:
        entries = content["annotations"] if isinstance(content, Mapping) else content
        if not isinstance(entries, list):
            raise ScoringError(f"{path}: 'annotations' must be a list, got {shown(entries)}")
        for entry in entries:
            texts = found.setdefault(_image_id(path, entry), [])
            texts.append(_entry(path, entry, "caption"))
    return {key: _texts(path, key, value) for key, value in found.items()}


def _texts(path: pathlib.Path, key: str, value: Any) -> list[str]:
    listed = [value] if isinstance(value, str) else value
    if not (isinstance(listed, list) and all(isinstance(text, str) for text in listed)):
        raise ScoringError(f"{path}: the captions of {key} are {value!r:.80}, not texts")
    if not listed:
        return []  # which is reported together with all others
    try:
        return list(checked_texts(value))
    except ValueError as error:
        raise ScoringError(f"{path}: a caption of {key} {error}") from None


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        content = read_json(path)
    except TextFileError as error:
        line = "" if error.line is None else f"line {error.line}: "
        raise ScoringError(f"{path}: cannot be read as JSON: {line}{error.reason}") from None
    if not isinstance(content, (list, Mapping)):
        raise ScoringError(f"{path}: holds neither an object nor a list")
    return content


def _entry(path: str | os.PathLike[str], entry: Any, key: str) -> Any:
    if not isinstance(entry, Mapping) or key not in entry:
        raise ScoringError(f"{path}: an entry has no {key!r}: {entry!r:.80}")
    return entry[key]


def _image_id(path: str | os.PathLike[str], entry: Any) -> str:
    found = _entry(path, entry, "image_id")
    if isinstance(found, bool) or not isinstance(found, (str, int)):
        reason = f"'image_id' must be text or a whole number, got {shown(found)}"
        raise ScoringError(f"{path}: {reason}")
    return str(found)


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


def _check_texts(kind: str, texts: Mapping[str, Sequence[str]]) -> None:
    for each, listed in texts.items():
        for text in listed:
            wrong = wrong_characters(text)
            if not wrong and len(words := text.split()) > MOST_WORDS:
                wrong = f"has {len(words):,} words, more than {MOST_WORDS:,}"
            if wrong:
                raise ScoringError(f"a {kind} of {each} {wrong}")


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")


def _light_tokens_of_all(texts: Mapping[str, Sequence[str]]) -> Tokenized:
    return {each: [" ".join(light_tokens(t)) for t in listed] for each, listed in texts.items()}


def _ptb_tokens(texts: Mapping[str, Sequence[str]]) -> Tokenized:
    """pycocoevalcap's PTBTokenizer, without the file it writes into its package's folder."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = pathlib.Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    # One text per line: none of Unicode's line ends may stay in it.
    lines = [" ".join(text.split()) for listed in texts.values() for text in listed]
    try:
        done = subprocess.run(
            [*command, "-preserveLines", "-lowerCase"],
            input="".join(f"{line}\n" for line in lines).encode(),
            capture_output=True,
            timeout=_patience(len(lines)),
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the PTB tokenizer gave no answer in {error.timeout:.0f} s") from None
    tokenized = done.stdout.decode().split("\n")[:-1]
    if done.returncode or len(tokenized) != len(lines):
        said = done.stderr.decode(errors="replace")[-1000:]
        raise RuntimeError(f"the PTB tokenizer failed: {said}")
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


def _patience(texts: int) -> float:
    return START_TIME + TIME_OF_A_TEXT * texts


def _meteor(references: Tokenized, predictions: Tokenized) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    meteor = Meteor()
    patience = _patience(sum(map(len, references.values())))
    timer = threading.Timer(patience, meteor.meteor_p.kill)  # ends the wait for its answer
    started = time.monotonic()
    timer.start()
    try:
        return meteor.compute_score(references, predictions)[0]
    except (OSError, ValueError) as error:
        meteor.lock.release()  # else its __del__ waits for ever
        late = time.monotonic() - started >= patience
        meteor.meteor_p.kill()
        said = meteor.meteor_p.stderr.read().decode(errors="replace")[-1000:]
        if late:
            raise RuntimeError(f"METEOR gave no answer in {patience:.0f} s") from None
        raise RuntimeError(f"METEOR failed: {said or error}") from error
    finally:
        timer.cancel()
