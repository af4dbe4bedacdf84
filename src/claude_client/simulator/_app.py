"""The ASGI application: the Messages API, and the control routes for other processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from ._answering import answer
from ._batches import LARGEST_BATCH
from ._errors import RejectedError, Rejection
from ._exchange import Exchange
from ._pace import for_ever
from ._script import Reply
from ._validation import LARGEST_BODY, check_caller, check_count, check_create, check_size, parsed_body

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from ._prompt import Body
    from ._state import State

_log = logging.getLogger(__name__)

MODELS = "/v1/models/"
BATCHES = "/v1/messages/batches"


def build_app(state: State) -> Router:
    """The application with every route of the simulator's port."""
    control = Control(state)
    routes = [
        Route("/simulator/requests", control.requests),
        Route("/simulator/statistics", control.statistics),
        Route("/simulator/reset", control.reset, methods=["POST"]),
        Route("/simulator/script", control.script, methods=["POST"]),
    ]
    return Router(routes, redirect_slashes=False, default=MessagesApi(state))


class MessagesApi:
    """The API itself. It answers, and records, every path that is not the simulator's own."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a client that leaves ends it."""
        request = Request(scope, receive)
        try:
            raw = await request.body()
        except ClientDisconnect:
            return
        connection = scope["state"]["connection"]
        body, headers = _readable(raw), dict(request.headers)
        arrival = self._state.arrive(request.method, request.url.path, headers, body)
        exchange = Exchange(self._state, arrival, connection, send)
        with connection.cancelling_when_lost():
            try:
                await self._answer(exchange, request, body, raw)
            except RejectedError as error:
                await exchange.reject(error.rejection)
            except asyncio.CancelledError:
                exchange.end("disconnected")
            except Exception as mistake:  # noqa: BLE001 - whatever it is, the client gets an answer
                _log.exception("The simulator failed")
                await exchange.fail(f"the simulator failed: {mistake!r}")
            finally:
                exchange.end("faulted")  # only where nothing above has ended the record

    async def _answer(self, exchange: Exchange, request: Request, body: Body, raw: bytes) -> None:
        path = request.url.path
        check_size(raw, LARGEST_BATCH if path == BATCHES else LARGEST_BODY)
        check_caller(request.headers)
        api_version = request.headers["anthropic-version"]
        if path == BATCHES or path.startswith(f"{BATCHES}/"):
            await self._answer_of_batches(exchange, request, body or parsed_body(raw or b"{}"))
            return
        if request.method == "GET" and path.startswith(MODELS):
            model = path.removeprefix(MODELS)
            self._state.models.check(model)
            await exchange.give(self._state.models.info(model))
        elif request.method != "POST" or path not in ("/v1/messages", "/v1/messages/count_tokens"):
            raise RejectedError(Rejection(type="not_found_error", message=f"Not found: {path}"))
        elif path == "/v1/messages":
            blocks = check_create(body or parsed_body(raw), api_version, self._state.models)
            turn = self._state.decide(exchange.arrival, body, blocks)
            await answer(exchange, turn, stream=body.get("stream") is True)
        else:
            blocks = check_count(body or parsed_body(raw), api_version, self._state.models)
            await exchange.give({"input_tokens": sum(block.tokens for block in blocks)})

    async def _answer_of_batches(self, exchange: Exchange, request: Request, body: Body) -> None:
        batches, base_url = self._state.batches, str(request.base_url).rstrip("/")
        batch_id, _, what = request.url.path.removeprefix(BATCHES).strip("/").partition("/")
        with self._state.changed:
            match request.method, bool(batch_id), what:
                case "POST", False, "":
                    batch_id, reply = batches.create(body, request.headers)
                    answer = batches.created(batch_id, base_url)
                case "GET", False, "":
                    answer = batches.list(request.query_params, base_url)
                case "GET", True, "":
                    answer = batches.retrieve(batch_id, base_url)
                case "POST", True, "cancel":
                    answer = batches.cancel(batch_id, base_url)
                case "DELETE", True, "":
                    answer = batches.delete(batch_id)
                case "GET", True, "results":
                    lines = batches.results(batch_id)
                case _:
                    raise RejectedError(Rejection(type="not_found_error", message=f"Not found: {request.url.path}"))
        if what == "results":
            await exchange.finish("application/x-jsonl", lines)
        elif (request.method, what) != ("POST", "") or not (reply.lost_answer or reply.silent):
            await exchange.give(answer)
        elif reply.lost_answer:
            await exchange.cut()
        else:
            await for_ever()


def _readable(raw: bytes) -> Mapping[str, Any]:
    """The body, or an empty one in place of what cannot be read and will be refused."""
    try:
        return parsed_body(raw)
    except RejectedError:
        return {}


class Control:
    """The routes by which a client in another process controls the simulator."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def requests(self, _: Request) -> Response:
        """Every record."""
        return JSONResponse([request.as_json() for request in self._state.requests])

    async def statistics(self, _: Request) -> Response:
        """Counts, and the summed usage."""
        return JSONResponse(self._state.statistics())

    async def reset(self, _: Request) -> Response:
        """Forget everything."""
        self._state.reset()
        return Response(status_code=204)

    async def script(self, request: Request) -> Response:
        """Take ``{"replies": [...], "matching": "..."}``; a mistake is a 400 that says what it is."""
        try:
            value = await request.json()
            replies = [Reply.from_json(reply) for reply in value["replies"]]
            matching = _text_or_none(value.get("matching"))
        except (ValueError, TypeError, KeyError) as error:
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=400)
        self._state.add_replies(replies, matching)
        return Response(status_code=204)


def _text_or_none(value: Any) -> str | None:
    if not isinstance(value, str | None):
        raise TypeError(f"a text was expected, got {value!r}")
    return value
