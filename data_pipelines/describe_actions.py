"""Spatial and temporal descriptions of actions, written by a language model (MSTA, Section 3.3).

    python -m data_pipelines.describe_actions --labels data/hmdb51/classes.txt
        --endpoint http://localhost:8000/v1 [--model NAME] [--key-env OPENAI_API_KEY]
        [--sentences 2] --out data/hmdb51/descriptions

asks a server with OpenAI's chat completions API, twice for each class, and writes spatial.json and
temporal.json, {"0": [sentences], ...}, which a recognition config takes as its descriptions.
Answers are kept in answers.json; a later run asks only for those missing there.
"""

import argparse
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from data_pipelines.annotation_files import AnnotationError
from data_pipelines.label_files import read_class_names
from data_pipelines.manifests import write_lines
from vlt.command_line import why
from vlt.data.text.text_files import parse_json, read_json
from vlt.data.text.texts import printable
from vlt.judging.endpoint import SHOWN, Endpoint, EndpointError
from vlt.tasks.descriptions import DescriptionError, read_descriptions

TRIES = 4  # requests for an answer that can be used
FEWEST_WORDS, MOST_WORDS = 3, 60
FORM = (
    'Each sentence begins with "A video", makes sense without the others and has at most 20 words. '
    "Answer with a JSON list of {count} strings and nothing else."
)
PROMPTS = {
    # What one image can show.
    "spatial": (
        'Describe in {count} sentences how the action "{name}" looks: the scene, the people and '
        "the objects that a single frame of a video of it would show. " + FORM
    ),
    # What only the order of images can show.
    "temporal": (
        'Take the action "{name}" apart into {count} successive steps and describe each step in '
        "one sentence that names the action, in the order in which they happen. " + FORM
    ),
}


class Answers:
    """One model's sentences by prompt, kept with other models' in a file that is always whole."""

    def __init__(self, path: pathlib.Path, model: str):
        """
        Raises:
          DescriptionError: the file has another form.
        """
        self._path = path
        self._models: dict[str, dict[str, list[str]]] = _read_answers(path)
        self._found = self._models.setdefault(model, {})

    def __contains__(self, prompt: str) -> bool:
        return prompt in self._found

    def __getitem__(self, prompt: str) -> list[str]:
        return self._found[prompt]

    def __setitem__(self, prompt: str, sentences: list[str]) -> None:
        self._found[prompt] = sentences
        write_lines(self._path, [json.dumps(self._models, ensure_ascii=False, indent=1)])


def _read_answers(path: pathlib.Path) -> Any:
    try:
        content = read_json(path) if path.exists() else {}
        found = [each for prompts in content.values() for each in prompts.values()]
        texts = [text for each in found if isinstance(each, list) for text in each]
        fits = all(isinstance(each, list) for each in found)
        fits &= all(isinstance(text, str) for text in texts)
    except (ValueError, AttributeError):
        fits = False
    if not fits:
        raise DescriptionError(
            f"{path}: holds no answers by model and prompt; without it all are asked for again"
        )
    return content


def sentences_of(answer: str) -> list[str]:
    """The sentences of an answer: a JSON list, or else one per line without numbers and dashes.

    What precedes </think> is left out.
    """
    answer = answer.rpartition("</think>")[2]
    start, end = answer.find("["), answer.rfind("]")
    try:
        found = parse_json(answer[start : end + 1]) if 0 <= start < end else None
    except ValueError:
        found = None
    if isinstance(found, list) and all(isinstance(each, str) for each in found):
        return [" ".join(each.split()) for each in found]
    lines = [line.strip() for line in answer.split("\n") if line.strip()]
    marked = [line for line in lines if re.match(r"(\d+[.):]|[-*•])\s", line)]
    return [re.sub(r"^(\d+[.):]|[-*•])\s+", "", line) for line in marked or lines]


def complaint(sentences: Sequence[str], count: int) -> str:
    """Why sentences cannot be used; '' if they can."""
    if len(sentences) != count:
        return f"{len(sentences)} sentences instead of {count}"
    if len({sentence.casefold() for sentence in sentences}) < count:
        return "a sentence comes twice"
    for sentence in sentences:
        if printable(sentence) != sentence:
            return f"a control character in {sentence!r}"
        words = re.findall(r"\w*[^\W\d_]\w*", sentence)
        if not FEWEST_WORDS <= len(words) <= MOST_WORDS:
            return f"{len(words)} words instead of {FEWEST_WORDS} to {MOST_WORDS}: {sentence!r}"
    return ""


def describe(endpoint: Endpoint, name: str, prompt: str, count: int) -> list[str]:
    """Sentences about a class; an answer that cannot be used is asked for again.

    Raises:
      DescriptionError: none of `TRIES` answers can be used.
      EndpointError: the server does not answer.
    """
    for _ in range(TRIES):
        answer = endpoint.ask(prompt)
        sentences = sentences_of(answer)
        wrong = complaint(sentences, count)
        if not wrong:
            return sentences
    raise DescriptionError(
        f"class {name!r}: none of {TRIES} answers can be used; {wrong} in {answer[:SHOWN]!r}"
    )


def write_descriptions(
    names: Sequence[str], endpoint: Endpoint, out: pathlib.Path, count: int = 2
) -> list[pathlib.Path]:
    """Writes OUT/spatial.json and OUT/temporal.json, with `count` sentences for each class.

    Raises:
      DescriptionError: answers cannot be used, or the file of answers has another form.
      EndpointError: the server does not answer; its earlier answers are kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    answers = Answers(out / "answers.json", endpoint.model)
    wanted = [
        (kind, name, prompt.format(name=name, count=count))
        for kind, prompt in PROMPTS.items()
        for name in names
    ]
    missing = [each for each in wanted if each[2] not in answers]
    print(f"{len(missing)} of {len(wanted)} answers are asked for", flush=True)
    for number, (kind, name, prompt) in enumerate(missing, 1):
        answers[prompt] = describe(endpoint, name, prompt, count)
        print(f"{number}/{len(missing)} {kind}: {name}", flush=True)
    paths = []
    for kind in PROMPTS:
        prompts = [prompt for each, _, prompt in wanted if each == kind]
        content = {str(index): answers[prompt] for index, prompt in enumerate(prompts)}
        paths.append(out / f"{kind}.json")
        write_lines(paths[-1], [json.dumps(content, ensure_ascii=False, indent=4)])
        read_descriptions(paths[-1], names)
    return paths


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    labels = "names of the classes: one a line, or a .csv with `id,name`"
    parser.add_argument("--labels", type=pathlib.Path, required=True, help=labels)
    parser.add_argument("--endpoint", required=True, help="address, such as http://localhost/v1")
    parser.add_argument("--model", default="", help="name of the model, where there are several")
    parser.add_argument("--key-env", help="environment variable that holds the key")
    parser.add_argument("--sentences", type=int, default=2, help="of each kind and class")
    parser.add_argument("--timeout", type=float, default=Endpoint.timeout, help="in seconds")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the files")
    arguments = parser.parse_args()
    name = arguments.key_env or ""
    key = os.environ.get(name, "").strip()
    if name and not key:
        # What is not a variable's name may be the key itself.
        named = name if re.fullmatch("[A-Z_][A-Z0-9_]*", name) else "of the given name"
        parser.error(f"--key-env: there is no environment variable {named}, or it is empty")
    if arguments.sentences < 1:
        parser.error(f"--sentences must be >= 1, got {arguments.sentences}")
    try:
        endpoint = Endpoint(arguments.endpoint, arguments.model, key, arguments.timeout)
        names = read_class_names(arguments.labels)
        paths = write_descriptions(names, endpoint, arguments.out, arguments.sentences)
    except (AnnotationError, DescriptionError, EndpointError, OSError) as error:
        parser.exit(1, f"{why(error)}\n")
    print(f"written: {', '.join(map(str, paths))}")


if __name__ == "__main__":
    main()
