"""`vlt serve --index=INDEX`: a page in the browser to search one's own videos."""

import argparse
import sys

from vlt.command_line.serve import HERE, parse
from vlt.door import load_kind, run_door
from vlt.indexing.index import Index
from vlt.indexing.store import Store
from vlt.indices import model_of
from vlt.serving import NEEDED


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
    index = Index(options.index, model_of(Store(options.index), options.model, options.workdir))
    lacks = "answers no questions"
    chat = load_kind(options.chat, None, ("chat",), lacks) if options.chat else None
    with Library(index, chat) as library:
        app = make_app(library, [*HERE, options.host, *options.name], options.token)
        shown = f"/?token={options.token}" if options.token else "/"
        print(f"http://{options.host}:{options.port}{shown}", file=sys.stderr, flush=True)
        uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
