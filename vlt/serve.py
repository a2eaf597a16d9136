"""`vlt serve --index=INDEX`: a page in the browser to search one's own videos."""

import argparse
import contextlib
import socket
import sys
import urllib.parse

from vlt.command_line.serve import HERE, parse
from vlt.door import load_kind, run_door
from vlt.indexing.index import Index
from vlt.indexing.store import Store
from vlt.indices import model_of
from vlt.serving import NEEDED

LAST_ANSWERS = 3  # seconds that answers under way may still take once the server is stopped


def main(arguments: list[str] | None = None) -> int:
    """Runs the server until it is stopped."""
    return run(parse("python -m vlt.serve", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    return run_door(lambda: _serve(options))


def _serve(options: argparse.Namespace) -> int:
    try:
        import uvicorn

        from vlt.serving.app import make_app
        from vlt.serving.library import Library
    except ImportError as error:
        raise ValueError(NEEDED) from error
    listening = _listen(options.host, options.port)
    index = Index(options.index, model_of(Store(options.index), options.model, options.workdir))
    lacks = "answers no questions"
    chat = load_kind(options.chat, None, ("chat",), lacks) if options.chat else None
    with Library(index, chat) as library:
        # As addresses show them: those with colons in brackets.
        host, *others = (f"[{x}]" if ":" in x else x for x in (options.host, *HERE, *options.name))
        app = make_app(library, [host, *others], options.token)
        shown = f"/?{urllib.parse.urlencode({'token': options.token})}" if options.token else "/"
        port = listening.getsockname()[1]
        print(f"http://{host}:{port}{shown}", file=sys.stderr, flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=LAST_ANSWERS)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A socket at this address, taken before anything is loaded.

    Raises:
        ValueError: the address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # which repeats the address
        raise ValueError(f"--host={host} --port={port}: {reason}") from error


if __name__ == "__main__":
    sys.exit(main())
