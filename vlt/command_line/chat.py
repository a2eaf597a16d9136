"""Answers questions about videos.

VIDEO is a file, a folder (every video file below it) or a pattern ('clips/**/*.mp4'). It is read as
the model folder records, except for --frames. A video that cannot be read is named on stderr.

With --ask, each question is asked about each video separately: prints a line `path: question
answer`, or with --json an object with `video`, `question` and `answer`, or `error`; the exit status
is 1 if a video could not be read. Without --ask, starts a dialogue about all the videos: each line
is a question, and answers appear as they are written. Lines that are piped in are echoed before
their answers. Its commands:
"""

import argparse

from vlt.command_line.own_videos import make_parser
from vlt.command_line.present import check_model

COMMANDS = """\
  /video FILE...   shows more videos, which the next question is about
  /frames N        reads N frames of each video shown from now on
  /reset           starts over, without videos
  /save FILE       writes the dialogue as JSON
  /help            lists these commands
  /quit            ends the dialogue, as Ctrl-D does
Ctrl-C stops a command, or an answer, whose question then does not count.
"""
SPACINGS = ("train", "fast", "modern")
WEIGHTS = ("bfloat16", "int8")


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = make_parser(program, f"{__doc__}{COMMANDS}", "")
    parser.add_argument(
        "--ask", action="append", default=[], metavar="TEXT", help="a question; repeatable"
    )
    parser.add_argument("--frames", type=_count, metavar="N", help="of each video")
    parser.add_argument(
        "--template",
        metavar="NAME",
        help="of dialogues (vlt/data/text/prompts.py); the checkpoint's",
    )
    parser.add_argument(
        "--spacing",
        choices=SPACINGS,
        default="train",
        help="how words around added tokens are read (vlt/data/text/chat_tokenizer.py)",
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="",
        help="of the language model, in fewer bits than they are stored in (vlt/models/narrow.py)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the search: method=nucleus, temperature, max_length, ... (vlt/models/search.py); "
        "repeatable",
    )
    options = parser.parse_args(arguments)
    if not options.model and options.workdir is None:
        parser.error("one of --model and --workdir is needed, as in --model=tiny_chat")
    if not all(question.strip() for question in options.ask):
        parser.error("--ask: a question without words")
    if options.json and not options.ask:
        parser.error("--json: a dialogue is for people, and /save writes it; --ask asks for JSON")
    check_model(options.model, options.workdir)
    return options


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number above 0 is needed")
    return count
