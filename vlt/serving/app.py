"""The page's server: what it answers, and to whom."""

import contextlib
import io
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlt.data.video.errors import CannotOpen, VideoError
from vlt.data.video.suffixes import VIDEO_SUFFIXES
from vlt.inference.pictures import still
from vlt.serving.library import Gone, Library
from vlt.serving.queue import WorkQueue

PAGE = Path(__file__).resolve().parents[1] / "assets" / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
MOST_BYTES = 64 << 20  # of an uploaded clip
LONGEST = 2000  # characters of a query
LATEST = 1_000_000_000  # seconds that a request may name
MOST_FOUND = 200
COOKIE = "vlt_token"
OWN_HEADER = "x-vlt"  # which pages of other sites cannot set
TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def make_app(
    library: Library, hosts: list[str], token: str = "", workers: int = 2, waiting: int = 1000
) -> Starlette:
    """The application.

    Args:
        hosts: names under which it is reached; requests for others are refused.
        token: what a visitor must know, as in /?token=...; "" for nothing.
        workers, waiting: requests that are worked on at once, and that may wait; more get a 503.
    """
    queue = WorkQueue(workers, waiting)
    pages = Pages(library, queue)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        queue.close()

    return Starlette(
        routes=[
            *(Route(path, pages.static) for path in FILES),
            Route("/api/about", pages.about),
            Route("/api/search", pages.search),
            Route("/api/similar", pages.similar),
            Route("/api/upload", pages.upload, methods=["POST"]),
            Route("/video/{number:int}", pages.video),
            Route("/frame/{number:int}/{tenths:int}", pages.frame),
            Route("/tokens/{number:int}", pages.tokens),
            Route("/api/ask", pages.ask, methods=["POST"]),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
            Middleware(Guard, token=token),
        ],
        exception_handlers={
            HTTPException: _told,
            Gone: _gone,
            ValueError: _wrong,
            VideoError: _wrong,
        },
        lifespan=lifespan,
    )


class Pages:
    """What each address answers."""

    def __init__(self, library: Library, queue: WorkQueue):
        self.library, self.queue = library, queue

    async def static(self, request: Request) -> Response:
        """A file of the page."""
        name, kind = FILES[request.url.path]
        return FileResponse(PAGE / name, media_type=kind)

    async def about(self, request: Request) -> Response:
        return JSONResponse(self.library.about())

    async def search(self, request: Request) -> Response:
        """The ranges found by ?query=TEXT&top=N&within=TEXT."""
        query, top, within = request.query_params.get("query", ""), _top(request), _within(request)
        if not query.strip():
            raise HTTPException(400, "a query is needed")
        if len(query) > LONGEST:
            raise HTTPException(400, f"a query of {len(query):,} characters; at most {LONGEST:,}")
        with self.queue.place():
            found = await self.queue.run(request, lambda: self.library.search(query, top, within))
        return JSONResponse({"found": found})

    async def similar(self, request: Request) -> Response:
        """The ranges that look like ?video=NUMBER&at=SECONDS&top=N&within=TEXT."""
        number, at = int(_number(request, "video")), _number(request, "at")
        top, within = _top(request), _within(request)
        self.library.file(number)
        with self.queue.place():
            found = await self.queue.run(
                request, lambda: self.library.similar(number, at, top, within)
            )
        return JSONResponse({"found": found})

    async def upload(self, request: Request) -> Response:
        """The ranges like the picture or clip in the body, ?top=N&within=TEXT; it is not kept."""
        top, within = _top(request), _within(request)
        with self.queue.place():
            content = await _body(request, MOST_BYTES)
            found = await self.queue.run(
                request, lambda: self.library.search(self._seen(content), top, within)
            )
        return JSONResponse({"found": found})

    async def video(self, request: Request) -> Response:
        """The file, or a range of its bytes."""
        path = self.library.file(request.path_params["number"])
        suffix = Path(path).suffix.lower()
        kind = TYPES.get(suffix, "application/octet-stream")
        kind = kind if suffix in VIDEO_SUFFIXES else "application/octet-stream"
        return FileResponse(path, media_type=kind, content_disposition_type="inline")

    async def frame(self, request: Request) -> Response:
        """A frame as JPEG."""
        number, tenths = request.path_params["number"], request.path_params["tenths"]
        if tenths >= 10 * LATEST:
            raise HTTPException(404, "no such frame")
        with self.queue.place():
            content = await self.queue.run(request, lambda: self.library.picture(number, tenths))
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})

    async def tokens(self, request: Request) -> Response:
        """Which patches became one token in ?start=SECONDS&end=SECONDS, as PNG."""
        number, span = request.path_params["number"], _span(request)
        with self.queue.place():
            content = await self.queue.run(request, lambda: self.library.tokens(number, span))
        return Response(content, media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    async def ask(self, request: Request) -> Response:
        """Answers a question, the body, about ?video=NUMBER&start=SECONDS&end=SECONDS."""
        number, span = int(_number(request, "video")), _span(request)
        stop = threading.Event()
        with self.queue.place():
            question = (await _body(request, 4 * LONGEST)).decode(errors="replace")
            if len(question) > LONGEST:
                raise HTTPException(400, f"a question of {len(question):,} characters")
            answer = await self.queue.run(
                request, lambda: self.library.ask(number, span, question, stop), stop
            )
        return JSONResponse({"answer": answer})

    def _seen(self, content: bytes) -> Any:
        """Frames [t, H, W, 3] of an uploaded picture or clip, as the model sees them.

        Raises:
            VideoError: it is neither.
        """
        model = self.library.index.model
        try:
            return still(model.config, io.BytesIO(content), "")
        except CannotOpen:
            with tempfile.NamedTemporaryFile(suffix=".video") as file:
                file.write(content)
                file.flush()
                return model.read_videos(file.name)[0]


class Guard:
    """Refuses visitors without the token, and other sites' pages; sets headers of all answers.

    Not one of Starlette's own middlewares, behind which a closed connection goes unnoticed.
    """

    def __init__(self, app: ASGIApp, token: str):
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refused = self._refusal(request)
        cookie = self._cookie(request) if refused is None else []

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.raw.extend(cookie)
            await send(message)

        await (refused or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        if self._token and not _knows(request, self._token):
            return JSONResponse({"error": "a token is needed: /?token=..."}, 401)
        if request.method == "POST" and request.headers.get(OWN_HEADER) != "1":
            return JSONResponse({"error": "not from this page"}, 403)
        return None

    def _cookie(self, request: Request) -> list[tuple[bytes, bytes]]:
        """The header by which a visitor who gave the token is known from then on."""
        if not self._token or "token" not in request.query_params:
            return []
        response = Response()
        response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
        return [(name, value) for name, value in response.raw_headers if name == b"set-cookie"]


def _knows(request: Request, token: str) -> bool:
    told = request.query_params.get("token") or request.cookies.get(COOKIE, "")
    return secrets.compare_digest(told.encode(), token.encode())


async def _body(request: Request, most: int) -> bytes:
    """The uploaded bytes. Raises: HTTPException if they are more than `most`, or none."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise HTTPException(413, f"at most {most:,} bytes can be sent")
    if not content:
        raise HTTPException(400, "nothing was sent")
    return bytes(content)


def _number(request: Request, name: str) -> float:
    try:
        value = float(request.query_params[name])
    except (KeyError, ValueError):
        raise HTTPException(400, f"{name} must be a number") from None
    if not 0 <= value < LATEST:
        raise HTTPException(400, f"{name} must be a number from 0 on")
    return value


def _span(request: Request) -> tuple[float, float]:
    start, end = _number(request, "start"), _number(request, "end")
    if start >= end:
        raise HTTPException(400, "end must be after start")
    return start, end


def _top(request: Request) -> int:
    asked = request.query_params.get("top", "24")
    if not asked.isdecimal() or len(asked) > 9 or not 1 <= int(asked) <= MOST_FOUND:
        raise HTTPException(400, f"top must be a whole number from 1 to {MOST_FOUND}")
    return int(asked)


def _within(request: Request) -> str:
    return request.query_params.get("within", "")[:LONGEST]


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _gone(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 404)


async def _wrong(_: Request, error: Exception) -> Response:
    # The name that an uploaded file had here means nothing to anybody.
    return JSONResponse({"error": getattr(error, "reason", str(error))}, 400)
