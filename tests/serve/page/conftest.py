"""The page in a real browser, before a server that says what a test tells it to."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from r1jax.serve import page as served

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")

expect.set_options(timeout=5000)


@dataclass
class Script:
    """What the server answers with, request after request, and what it was asked.

    An answer is a list of steps: `("think", text)`, `("say", text)`, `("hold", event)`
    waits for a test, `("error", message)` breaks off with an error, `("drop", None)`
    cuts the connection, `("finish", reason)` ends otherwise than by "stop". An answer
    that is a `Response` is sent as it is.
    """

    answers: list[Any] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    reasoning: bool = True
    key: str | None = None
    cached: int = 0
    waiting: int = 0
    given_up: int = 0  # streams whose reader went away

    def hold(self) -> threading.Event:
        """Makes an event that a step can wait for."""
        return threading.Event()


def _chunk(usage: dict[str, Any], finish: str | None = None, **delta: str) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice], 'usage': usage})}\n\n"


async def _recite(script: Script, steps: list[Any]) -> AsyncIterator[str]:
    thought = said = 0
    finish = "stop"

    def usage() -> dict[str, Any]:
        return {
            "prompt_tokens": 1234,
            "completion_tokens": thought + said,
            "completion_tokens_details": {"reasoning_tokens": thought},
            "prompt_tokens_details": {"cached_tokens": script.cached},
        }

    try:
        yield _chunk(usage(), role="assistant", content="")
        for kind, value in steps:
            if kind == "hold":
                yield ": the client must see the headers\n\n"
                while not value.is_set():
                    await asyncio.sleep(0.005)
            elif kind == "error":
                error = {"message": value, "code": "engine_error"}
                yield f"data: {json.dumps({'error': error})}\n\n"
                return
            elif kind == "drop":
                raise ConnectionAbortedError
            elif kind == "finish":
                finish = value
            else:
                for start in range(0, len(value), 4):
                    piece = value[start : start + 4]
                    if kind == "think":
                        thought += 1
                        yield _chunk(usage(), reasoning_content=piece)
                    else:
                        said += 1
                        yield _chunk(usage(), content=piece)
        yield _chunk(usage(), finish)
        yield f"data: {json.dumps({'choices': [], 'usage': usage()})}\n\n"
        yield "data: [DONE]\n\n"
    except asyncio.CancelledError:
        script.given_up += 1
        raise


def scripted(script: Script) -> Starlette:
    """Builds the application: the real page, and endpoints that recite."""

    def refused(request: Request) -> Response | None:
        if script.key is None:
            return None
        if request.headers.get("authorization") == f"Bearer {script.key}":
            return None
        said = {
            "message": "The API key is missing or wrong.",
            "code": "invalid_api_key",
        }
        return JSONResponse({"error": said}, 401)

    async def models(request: Request) -> Response:
        card = {"id": "deepseek/R1-Recital", "max_model_len": 131072}
        card["reasoning"] = script.reasoning
        return refused(request) or JSONResponse({"object": "list", "data": [card]})

    async def chat(request: Request) -> Response:
        refusal = refused(request)
        if refusal:
            return refusal
        script.asked.append(await request.json())
        answer = script.answers.pop(0)
        if isinstance(answer, Response):
            return answer
        return StreamingResponse(
            _recite(script, answer), media_type="text/event-stream"
        )

    async def metrics(request: Request) -> Response:
        rows = f'r1jax:num_requests_waiting{{model_name="x"}} {script.waiting}.0\n'
        return Response(rows + 'r1jax:num_requests_running{model_name="x"} 8.0\n')

    return Starlette(
        routes=[
            *served.Page().routes(),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/metrics", metrics),
        ]
    )


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serves an application on a free port; gives its address."""
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def scripted_server() -> Iterator[tuple[str, Script]]:
    """One server for all tests of a file; each fills the script anew."""
    script = Script()
    with serving(scripted(script)) as address:
        yield address, script


@pytest.fixture
def listening() -> Callable[[Any], contextlib.AbstractContextManager[str]]:
    """Serves an application of the test's own."""
    return serving


@pytest.fixture
def script(scripted_server) -> Script:
    """What the server of this test says; to be filled by the test."""
    script = scripted_server[1]
    vars(script).update(vars(Script()))
    return script


@pytest.fixture
def url(scripted_server, script) -> str:
    """The address of the scripted server."""
    return scripted_server[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window. The variable CHROMIUM may name one."""
    named = os.environ.get("CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def workbench(browser, scripted_server) -> Iterator[Page]:
    """A page whose modules tests call; `base` is where they lie."""
    page = browser.new_page()
    page.goto(scripted_server[0])
    main = page.locator("script[type=module]")
    page.base = main.evaluate("(script) => new URL('.', script.src).href")
    yield page
    page.close()


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Page]]:
    """Opens a page in a profile of its own; errors of its scripts fail the test."""
    contexts, errors = [], []

    def open_page(address: str, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        if address != "about:blank":
            expect(page.locator(".example")).to_have_count(3)  # it listens now
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def page(visit, url) -> Page:
    """The page, opened before the scripted server."""
    return visit(url)


@pytest.fixture
def ask() -> Callable[[Page, str], None]:
    """Types a question and sends it."""

    def ask(page: Page, question: str) -> None:
        box = page.get_by_role("textbox", name="Question", exact=True)
        box.fill(question)
        box.press("Enter")

    return ask
