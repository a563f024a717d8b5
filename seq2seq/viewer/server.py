"""The live page and its JSON over HTTP, for browsers on this machine and for programs.

A page from elsewhere that is open in the same browser must get nothing: the Host header has to be
ours, requests that compute have to come from our own page or from no page, and as JSON. Whatever
arrives, its size, its time and the number of those waiting are bounded, and nothing is kept.
"""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from seq2seq.cpu import oom_as_user_error
from seq2seq.utils import UserError, printable
from seq2seq.viewer import live
from seq2seq.viewer.code import code_of_steps
from seq2seq.viewer.live import (
    AttendRequest,
    DiagramRequest,
    HeadsRequest,
    LiveRun,
    TranslateRequest,
)
from seq2seq.viewer.page import page

FRAGMENT = Path(__file__).with_name("live.html")
MAX_BODY = 64 * 1024  # bytes
BODY_SECONDS, TURN_SECONDS = 10, 30  # for a body to arrive; for a request to have its turn
MAX_WAITING = 64
MAX_CONNECTIONS = 200
PORT_ERRORS = (errno.EADDRINUSE, errno.EACCES)
GONE = "the client has gone"  # who will not read it
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
Handler = Callable[[Request], Awaitable[Response]]


def build_app(runs: Sequence[LiveRun], hosts: Sequence[str] = ()) -> Starlette:
    """The application for these runs; ``hosts`` are names of this machine besides localhost."""
    allowed = {"localhost", *(host.lower() for host in hosts)}
    workers = Workers()
    examples = runs[0].examples

    async def info(request: Request) -> Response:
        limits = {"characters": live.MAX_CHARACTERS, "beam": live.MAX_BEAM, "texts": live.MAX_TEXTS}
        about = [run.info() for run in runs]
        return answer({"runs": about, "examples": examples, "limits": limits})

    async def code(request: Request) -> Response:
        number = request.query_params.get("run", "0")
        if not number.isascii() or not number.isdigit():
            raise UserError("run is the number of a run, from 0")
        run = live.pick(runs, int(number[:9]))
        return answer(code_of_steps(run.translator.config.model))

    async def index(request: Request) -> Response:
        return HTMLResponse(live_page())

    def computed(
        kind: Any, compute: Callable[..., Any], respond: Callable[[Any], Response] = answer
    ) -> Handler:
        async def handler(request: Request) -> Response:
            asked = decode(await read_body(request), kind)
            return respond(await workers.run(request, partial(compute, runs, asked)))

        return handler

    async def save(request: Request) -> Response:
        asked = decode_panes(await read_body(request))
        html = await workers.run(request, lambda: page(live.views_of(runs, asked)))
        name = 'attachment; filename="attention.html"'
        return HTMLResponse(html, headers={"Content-Disposition": name})

    posts = {
        "/api/translate": computed(TranslateRequest, live.translate),
        "/api/attend": computed(AttendRequest, live.attend),
        "/api/heads": computed(HeadsRequest, live.rank_heads),
        "/api/diagram": computed(
            DiagramRequest, live.diagram, partial(Response, media_type="image/svg+xml")
        ),
        "/api/page": save,
    }
    gets: dict[str, Handler] = {"/": index, "/api/info": info, "/api/code": code}
    routes = [
        Route(path, guarded(allowed, handler), methods=[method])
        for method, handlers in (("GET", gets), ("POST", posts))
        for path, handler in handlers.items()
    ]
    errors: dict[Any, Any] = {HTTPException: http_error, UserError: user_error}
    app = Starlette(routes=routes, exception_handlers=errors)
    app.router.redirect_slashes = False
    return app


def live_page() -> str:
    """The static page without data, with the controls; it may talk to where it came from."""
    html = page([]).replace("<!--LIVE-->", FRAGMENT.read_text(encoding="utf-8"))
    return html.replace("default-src 'none';", "default-src 'none'; connect-src 'self';", 1)


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, "application/json")


async def http_error(request: Request, error: HTTPException) -> Response:
    return secured(answer({"error": error.detail}, error.status_code, dict(error.headers or {})))


async def user_error(request: Request, error: UserError) -> Response:
    return secured(answer({"error": printable(str(error))}, 400))


def secured(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response


# --- who may ask ---


def guarded(hosts: set[str], handler: Handler) -> Handler:
    """``handler`` for requests that were meant for this server."""

    async def checked(request: Request) -> Response:
        host = request.headers.get("host", "")
        # A page of an attacker whose name leads here (DNS rebinding) asks by that name.
        if not is_own_host(host, hosts):
            raise HTTPException(403, "the Host header is none of this server: see serve --host")
        if request.method == "POST":
            origin = request.headers.get("origin")
            if origin is not None and address_of(origin) != host.lower():
                raise HTTPException(403, "pages of other origins may not ask")
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise HTTPException(415, "a request is JSON: send Content-Type: application/json")
        return secured(await handler(request))

    return checked


def is_own_host(host: str, names: set[str]) -> bool:
    """Whether a Host header names this machine, or is an address, which leads nowhere else."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in names:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def address_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


# --- what they ask ---


async def read_body(request: Request) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise HTTPException(413, f"a request has at most {MAX_BODY:,} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the request did not arrive in {BODY_SECONDS} seconds") from None
    except ClientDisconnect:
        raise HTTPException(400, GONE) from None
    return body


def decode(body: bytes, kind: Any) -> Any:
    """The request in ``body``; ``UserError`` in one line if it is none."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not a request: {error}") from None


def decode_panes(body: bytes) -> list[AttendRequest]:
    """One request, or ``{"panes": [...]}`` with one or two."""
    asked = decode(body, dict[str, Any])
    panes = asked.get("panes", [asked])
    if not isinstance(panes, list) or len(panes) not in (1, 2):
        raise UserError("panes is a list of one request or two")
    try:
        return msgspec.convert(panes, list[AttendRequest])
    except ValueError as error:
        raise UserError(f"not a request: {error}") from None


class Workers:
    """A thread per core for what computes; those that find none free wait for their turn."""

    def __init__(self) -> None:
        cores = torch.get_num_threads()
        # Each computes by itself: a second core would gain less than a second request.
        self.pool = ThreadPoolExecutor(cores, "live", torch.set_num_threads, (1,))
        self.turns = asyncio.Semaphore(cores)
        self.n_waiting = 0

    async def run(self, request: Request, work: Callable[[], Any]) -> Any:
        await self.wait_turn(request)
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, _compute, work)
        finally:
            self.turns.release()

    async def wait_turn(self, request: Request) -> None:
        """Until a thread is free; who leaves before, as typing goes on, is not served."""
        if self.n_waiting >= MAX_WAITING:
            raise HTTPException(503, "too many requests are waiting", {"Retry-After": "2"})
        self.n_waiting += 1
        turn = asyncio.ensure_future(self.turns.acquire())
        gone = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({turn, gone}, timeout=TURN_SECONDS, return_when="FIRST_COMPLETED")
            has_turn, has_gone = turn.done(), gone.done()
        finally:
            self.n_waiting -= 1
            turn.cancel()  # without effect once it has come
            gone.cancel()
        if has_gone and has_turn:
            self.turns.release()
        if has_gone:
            raise HTTPException(400, GONE)
        if not has_turn:
            raise HTTPException(504, f"too busy: no turn in {TURN_SECONDS} seconds")


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _compute(work: Callable[[], Any]) -> Any:
    with oom_as_user_error("for a request: a shorter sentence takes less"):
        return work()


def listen(host: str, port: int) -> socket.socket:
    """A socket at this address, port 0 being any that is free; ``UserError`` if it cannot be."""
    if not host:  # the system would take it for every address, as 0.0.0.0
        raise UserError("--host is empty: 127.0.0.1 is this machine only, 0.0.0.0 the network")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, TypeError) as error:  # the last: no name can be so
        reason = getattr(error, "strerror", None) or error
        how = "choose another --host, such as 127.0.0.1"
        if isinstance(error, OverflowError) or getattr(error, "errno", None) in PORT_ERRORS:
            how = "choose another --port, or --port 0 for any that is free"
        raise UserError(f"{host}, port {port}: {reason}: {how}") from None


def make_server(app: Starlette) -> uvicorn.Server:
    """One that says nothing but what is wrong with itself."""
    config = uvicorn.Config(
        app,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
