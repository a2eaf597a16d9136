"""Serves a web page for searching your videos, using an index of `vlt embed`.

By default only this machine can reach it: another --host needs a --token, which visitors give once,
as in http://HOST:PORT/?token=TOKEN. Of your files, only the videos of the index are served, and
nothing that is uploaded is kept.
"""

import argparse
from pathlib import Path

from vlt.command_line.own_videos import whole_number
from vlt.command_line.present import check_index, check_model

HERE = ("127.0.0.1", "localhost", "::1")


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--index", required=True, metavar="INDEX", help="of `vlt embed`")
    parser.add_argument("--host", default=HERE[0], help="address (default: %(default)s)")
    parser.add_argument(
        "--port",
        type=whole_number(0, 65535, "up to 65535"),
        default=8080,
        help="0 for any (default: %(default)s)",
    )
    parser.add_argument("--token", default="", help="what visitors must know")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="another name under which the page is reached; repeatable",
    )
    parser.add_argument(
        "--chat", metavar="DIR", help="folder of a chat model, which answers questions about clips"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", help="model folder; the one that the index was made with")
    source.add_argument("--workdir", type=Path, help="folder of the run that trained it")
    options = parser.parse_args(arguments)
    if options.host not in HERE and not options.token:
        parser.error(f"--host={options.host}: others can reach it, so it needs --token=SECRET")
    if options.token and len(options.token) < 8:
        parser.error("--token: at least 8 characters are needed")
    check_index(options.index)
    check_model(options.model, options.workdir)
    return options
