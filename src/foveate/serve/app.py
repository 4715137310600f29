"""The server as an ASGI application: OpenAI's chat completions, models, health, metrics, and the page."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..ask import plan_of
from ..errors import MissingExtraError
from ..load import Loaded, load
from ..spec import Plan
from .settings import Settings

try:
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise MissingExtraError("the server needs: pip install 'foveate[serve]'") from error

from .asked import ERRORS, Chat
from .chat import Preparer, Reply
from .engine import Engine
from .guard import Guard
from .media import Opener
from .metrics import Metrics
from .problems import Problem, bad, cancelled, timeout
from .stream import BEAT, Events, left, told_at_the_end
from .task import Begun, Ended, Event, Failed, Piece, Task

_PAGE = {"index.html": "text/html", "app.js": "text/javascript", "draw.js": "text/javascript", "style.css": "text/css"}


class Server:
    """Everything one server holds: model, engine, limits, counters."""

    def __init__(self, loaded: Loaded, plan: Plan, settings: Settings, name: str | None, opener: Opener | None) -> None:
        self.loaded, self.plan, self.settings = loaded, plan, settings
        self.name = name or (Path(loaded.name).name if Path(loaded.name).is_dir() else loaded.name)
        self.metrics = Metrics()
        self.engine = Engine(loaded, settings, self.metrics)
        self.engine.check(plan)
        self.preparer = Preparer(loaded, self.engine, plan, settings, opener or Opener(settings))
        self.pool = ThreadPoolExecutor(settings.preparing, thread_name_prefix="foveate-media")
        self.since = int(time.time())
        watch = self.metrics.watch
        watch("foveate_running", "Answers in the making", lambda: float(self.engine.running))
        watch("foveate_waiting", "Requests prepared or waiting", lambda: float(self.engine.waiting))
        watch("foveate_kv_bytes", "Keys and values of answers in the making", lambda: float(self.engine.kv_bytes))
        watch("foveate_reuse_bytes", "What earlier requests left", lambda: float(self.engine.reuse.nbytes))

    async def chat(self, request: Request, chat: Chat) -> Any:
        """Answer one request, whole or as events."""
        came, name = time.monotonic(), str(request.scope["state"]["name"])
        if chat.model and chat.model != self.name:
            raise Problem(404, "model_not_found", "There is no such model here; GET /v1/models lists them.", "model")
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def emit(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
                loop.call_soon_threadsafe(events.put_nowait, event)

        self.engine.reserve()
        try:
            task = await loop.run_in_executor(self.pool, self._prepared, chat, came, emit, name)
            self.engine.submit(task)
        except BaseException:
            self.engine.release()
            raise
        drawn = chat.foveate is not None and chat.foveate.overlay
        reply = Reply(self.name, self.loaded, drawn)
        if chat.stream:
            return await self._streamed(request, chat, task, reply, events)
        return await self._whole(request, task, reply, events)

    def _prepared(self, chat: Chat, came: float, emit: Callable[[Event], None], name: str) -> Task:
        try:
            return self.preparer.task(chat, came, emit, name)
        except SystemExit as error:  # handed on as it is, it would end the loop of events, and with it the server
            raise RuntimeError("a reader of media wanted to leave") from error

    async def _whole(self, request: Request, task: Task, reply: Reply, events: asyncio.Queue[Event]) -> Any:
        gone = asyncio.ensure_future(left(request.receive))
        try:
            while True:
                event = await self._next(task, events, gone)
                if isinstance(event, Failed):
                    raise event.problem
                if isinstance(event, Begun):
                    await asyncio.to_thread(reply.begin, event)
                elif isinstance(event, Ended):
                    return JSONResponse(reply.whole(event))
        finally:
            task.cancel()  # of a whole answer nothing is left to cancel
            gone.cancel()

    async def _next(self, task: Task, events: asyncio.Queue[Event], gone: asyncio.Future[None]) -> Event:
        """The next event; a problem when the client leaves or the engine is over its time."""
        getting = asyncio.ensure_future(events.get())
        rest = max(0.0, task.until - time.monotonic()) + 5.0  # the engine itself looks between layers
        await asyncio.wait((getting, gone), timeout=rest, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        getting.cancel()
        raise cancelled() if gone.done() else timeout()

    async def _streamed(
        self, request: Request, chat: Chat, task: Task, reply: Reply, events: asyncio.Queue[Event]
    ) -> Any:
        first: Event | None = None
        try:  # what fails early is still told by a status
            first = await asyncio.wait_for(events.get(), BEAT)
        except TimeoutError:
            pass
        except BaseException:
            task.cancel()
            raise
        if isinstance(first, Failed):
            raise first.problem
        usage = chat.stream_options is not None and chat.stream_options.include_usage
        chunks = told_at_the_end(self._chunks(task, reply, events, first, usage))
        return Events(chunks, task.cancel, self.settings.sending)

    async def _chunks(
        self, task: Task, reply: Reply, events: asyncio.Queue[Event], first: Event | None, usage: bool
    ) -> AsyncIterator[dict[str, Any] | None]:
        event = first
        while True:
            if event is None:
                try:
                    event = await asyncio.wait_for(events.get(), BEAT)
                except TimeoutError:
                    if time.monotonic() > task.until + BEAT:
                        yield timeout().as_dict()
                        return
                    yield None
                    continue
            if isinstance(event, Failed):
                yield event.problem.as_dict()
                return
            if isinstance(event, Begun):
                await asyncio.to_thread(reply.begin, event)
                yield reply.chunk({"role": "assistant", "content": ""}, foveate=reply.own())
                reply.drawn_once()
            elif isinstance(event, Piece):
                yield reply.chunk({"content": event.text})
            else:
                yield reply.chunk({}, event.reason, foveate=reply.own(event))
                if usage:
                    yield reply.last(event)
                return
            event = None

    def model(self) -> dict[str, Any]:
        """The served model, as the list of models tells it."""
        own = {
            "plan": str(self.plan) or "none",
            "family": self.loaded.family,
            "vision": self.loaded.vision,
            "trained": self.loaded.trained,
            "frames": self.settings.frames,
            "most_frames": self.settings.most_frames,
            "media_bytes": self.settings.media_bytes,
        }
        return {"id": self.name, "object": "model", "created": self.since, "owned_by": "foveate", "foveate": own}


def create_app(
    model: Loaded | str | Path,
    plan: Any = None,
    *,
    settings: Settings | None = None,
    name: str | None = None,
    opener: Opener | None = None,
) -> FastAPI:
    """The application; an ASGI server such as uvicorn runs it.

    Args:
        model: what :func:`foveate.load` takes or gave. Nothing else may use it while the server runs.
        plan: of requests that name none, as for :func:`foveate.ask`; None is foveal, "none" the full model, "auto" the
            plan of the model's family.
        settings: limits. name: what clients call the model. opener: of media; another one is for tests.

    ``app.state.server`` is the :class:`Server` behind it.

    Raises:
        FoveateError: the model cannot be loaded, or the plan cannot work on it.
        MissingExtraError: FastAPI or prometheus_client is not installed.
    """
    settings = settings or Settings()
    loaded = model if isinstance(model, Loaded) else load(model)
    server = Server(loaded, plan_of(plan, loaded.vision, loaded.family), settings, name, opener)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        server.engine.start()
        yield
        await asyncio.to_thread(server.engine.stop)
        server.pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="foveate", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=life)
    app.state.server = server
    app.add_middleware(Guard, settings=settings, metrics=server.metrics)
    _errors(app)

    @app.post("/v1/chat/completions", responses=ERRORS, response_model=None)
    async def completions(request: Request, chat: Chat) -> Any:
        return await server.chat(request, chat)

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [server.model()]}

    @app.get("/v1/models/{name:path}", responses={k: ERRORS[k] for k in (401, 404)})
    async def one(name: str) -> dict[str, Any]:
        if name != server.name:
            raise Problem(404, "model_not_found", "There is no such model here; GET /v1/models lists them.", "model")
        return server.model()

    @app.get("/health", responses={503: ERRORS[503]})
    async def health() -> dict[str, Any]:
        if not server.engine.alive:
            raise Problem(503, "not_running", "The engine does not run.", retry=5)
        return {"status": "ok", "running": server.engine.running, "waiting": server.engine.waiting}

    @app.get("/metrics", response_class=Response, responses={401: ERRORS[401]})
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    here = files(__package__).joinpath("page")
    pages = {n: here.joinpath(n).read_bytes() for n in _PAGE}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(pages["index.html"], media_type="text/html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in pages:
            raise Problem(404, "not_found", "There is no such page.")
        return Response(pages[name], media_type=_PAGE[name])

    return app


def _errors(app: FastAPI) -> None:
    """Every error in one form, with fixed words."""

    def body(problem: Problem) -> JSONResponse:
        headers = {} if problem.retry is None else {"Retry-After": str(int(problem.retry))}
        return JSONResponse(problem.as_dict(), problem.status, headers)

    @app.exception_handler(RequestValidationError)
    async def form(request: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        place = ".".join(str(p) for p in found[0]["loc"][1:])[:200] if found else ""
        if not found or found[0]["type"] == "json_invalid":
            return body(bad("The body is not JSON.", None, "invalid_json"))
        safe = place.encode("ascii", "replace").decode()
        return body(Problem(422, "invalid_value", f"'{safe}' is missing or has a wrong value.", safe))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        words = {404: "There is no such page.", 405: "This page takes no such method."}
        status = error.status_code
        return body(Problem(status, "http_error", words.get(status, "The request cannot be read.")))

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> JSONResponse:
        return body(error)
