"""Scores answers to questions about videos with a judge, a language model that reads them.

PREDICTIONS is what a model answered, REFERENCES the questions with the true answers: the files of
the VideoChatGPT benchmark, of MSVD-, MSRVTT- or ActivityNet-QA (whose answers are in a separate
file), or a manifest. Predictions are {"id" or "video", "question", "pred" or "answer"}, in a list
or one per line, as `vlt chat --json` and evaluations write them.

OUT/requests.jsonl is written before anything is asked; each reply is added to OUT/answers.jsonl as
it arrives, so that the same command resumes where it was stopped. Without a judge, only the
requests are written. OUT/unread.jsonl lists the requests that have no score, and results.json holds
the scores with the judge, the date, and how many questions were asked, scored and missing; the exit
status is 1 if any is missing. Scores of different judges are not comparable; exact match, contains
and token F1, given beside those of --qa, need no judge.
"""

import argparse
from pathlib import Path

SETS = {
    "--generic": "answers judged for correctness, detail and context",
    "--temporal": "answers judged for the order of events",
    "--consistency": "pairs of answers (`pred1`, `pred2`) judged for consistency",
    "--qa": "answers judged right or wrong",
}
PUBLISHED = ("truncate", "yes_in_text", "first_question_twice")


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, about in SETS.items():
        parser.add_argument(
            name, nargs="+", metavar="FILE", help=f"PREDICTIONS REFERENCES: {about}"
        )
    parser.add_argument("--out", type=Path, required=True, help="folder for requests and replies")
    judge = parser.add_mutually_exclusive_group()
    judge.add_argument("--endpoint", metavar="URL", help="server of OpenAI's chat completions")
    judge.add_argument("--command", metavar="LINE", help="program: messages in, a reply out")
    judge.add_argument("--replay", type=Path, metavar="FILE", help="replies that exist")
    parser.add_argument("--model", default="", help="its name at the endpoint")
    parser.add_argument("--key-env", metavar="NAME", help="environment variable with the key")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="field of every question to the endpoint, such as temperature=0; repeatable",
    )
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for a reply")
    parser.add_argument("--attempts", type=int, default=3, help="at an endpoint, for a reply")
    parser.add_argument("--tries", type=int, default=3, help="for a reply that can be read")
    parser.add_argument("--parallel", type=int, default=4, help="requests at a time")
    parser.add_argument(
        "--published",
        action="append",
        default=[],
        choices=PUBLISHED,
        help="what published programs do wrong (vlt/judging/criteria.py); repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args(arguments)
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    every = {name: getattr(options, name.lstrip("-")) for name in SETS}
    given = {name: files for name, files in every.items() if files}
    if not given:
        parser.error(f"one of {', '.join(SETS)} is needed")
    for name, files in given.items():
        most = 3 if name == "--qa" else 2
        if not 2 <= len(files) <= most:
            parser.error(
                f"{name}: PREDICTIONS REFERENCES{' [ANSWERS]' * (most == 3)}, got {len(files)}"
            )
    for name in ("attempts", "tries", "parallel"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be >= 1, got {getattr(options, name)}")
    if not options.timeout > 0:
        parser.error(f"--timeout must be > 0, got {options.timeout}")
    if not options.endpoint and (options.model or options.key_env or options.set):
        parser.error("--model, --key-env and --set are of an --endpoint")
