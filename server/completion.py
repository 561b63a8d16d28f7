"""The life of one completion request, from the choice of who answers to the record in the journal."""

from __future__ import annotations

from datetime import datetime
from time import perf_counter

from litestar.types import Receive, Scope, Send

from feedback.errors import LimitReachedError, NotFoundError, StarloopError, StorageError, UnavailableError
from feedback.ids import new_id
from feedback.registry.arms import unit_of
from feedback.storage.conversations import answers_a_conversation
from feedback.storage.records import InferenceRecord
from server.access import Caller
from server.answers import Facts, has_error_object, read_error
from server.body import Body
from server.client_watch import ClientGoneError, ClientWatch
from server.connections import BrokenAnswerError, Connection
from server.dialects.dialect import Dialect
from server.errors import Failure, error_object, tell
from server.gateway import Gateway
from server.replicas import Replica
from server.routing import BASE, Route, choose, chosen_by, is_pinned
from server.telemetry.traces import Trace

CLIENT_GONE = 499
BATCH = "batch"
"""The purpose of a batch's requests, which no client can name: they are nobody's use, and teach nothing."""
_BACKGROUND = frozenset({BATCH, "evaluation", "replay"})
"""Purposes whose requests wait behind users' in the engine."""
_Headers = list[tuple[bytes, bytes]]


def begin(
    gateway: Gateway,
    caller: Caller,
    dialect: Dialect,
    body: Body,
    purpose: str,
    named: str | None = None,
    traceparent: str | None = None,
) -> Completion:
    """Choose who answers; `named` is the conversation as the client names it. Raises what `chosen_by` and `check_awake` do."""
    purpose = BATCH if purpose == BATCH else dialect.purpose or purpose
    conversation = None if dialect.purpose else body.conversation(named)
    stays = None
    if conversation is not None and purpose == "production" and body.goes_on(conversation):
        stays = gateway.conversations.version(body.model, conversation)
    now = gateway.now()
    identifier = new_id(now)
    unit = unit_of(body.user, conversation, identifier) if purpose == "production" else None
    pinned = is_pinned(body.model)
    requested = f"{body.model}@{BASE}" if dialect.purpose and not pinned else body.model
    route = chosen_by(caller, requested, gateway.live.current, stays, unit)
    gateway.engines.check_awake(route.base)
    adapter = None if pinned else route.adapter
    if adapter is not None and gateway.adapter_watch.problem(adapter):
        # the files of a challenger, or of a conversation's version, may be bad: the champion serves on
        route = choose(body.model, gateway.live.current)
    traces = gateway.traces
    trace = None if traces is None else traces.begin(dialect.path, dialect.operation, route, traceparent)
    return Completion(gateway, dialect, body, route, caller, purpose, conversation, identifier, now, trace)


class Completion:
    """One inference on its way. An ASGI application that answers exactly one request."""

    def __init__(
        self,
        gateway: Gateway,
        dialect: Dialect,
        body: Body,
        route: Route,
        caller: Caller,
        purpose: str,
        conversation: str | None,
        identifier: str,
        now: datetime,
        trace: Trace | None,
    ) -> None:
        self._gateway = gateway
        self._dialect = dialect
        self._body = body
        self._route = route
        self._caller = caller
        self._purpose = purpose
        self._conversation = conversation
        self._started = perf_counter()
        self._created = now
        self._trace = trace
        self._asked = ""
        self._first_byte: float | None = None
        self._tokens = 0
        self.id = identifier
        self.begun = False
        """The answer's head is on its way: what goes wrong from now on can only end it."""

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with self._gateway.under_way.on(self._route.adapter):
            await self._run(receive, send)

    async def _run(self, receive: Receive, send: Send) -> None:
        key_id, limits = self._caller.key_id, self._caller.limits
        if key_id is None or limits is None:
            await self._complete(receive, send)
            return
        counters = self._gateway.counters
        try:
            counters.enter(key_id, limits, self._created.timestamp())
        except LimitReachedError as error:
            await self._fail(send, tell(error))
            return
        try:
            await self._complete(receive, send)
        finally:
            counters.leave(key_id, self._tokens, self._gateway.now().timestamp())

    async def _complete(self, receive: Receive, send: Send) -> None:
        watch = ClientWatch(receive, self._gateway.settings.server.answer_seconds)
        engines = self._gateway.engines
        under_way = self._gateway.metrics.under_way
        counts = 0 if self._purpose == BATCH else 1  # batches go by it: they give way to all others
        under_way.add(counts)
        try:
            await self._gateway.adapter_watch.admit(self._route)
            async with engines.ask(self._route.base, self._request, watch.over) as (connection, replica):
                if connection.status == 200 and self._body.stream:
                    await self._stream(connection, replica.patience, watch, send)
                    return
                content = await connection.read_all(replica.patience)
                watch.stop()
                status, kind = connection.status, connection.content_type
            if status == 200:
                facts = self._dialect.facts(content, self._asked)
                await self._answer(send, status, kind, content, facts, None)
            else:
                await self._refuse(send, status, content)
        except ClientGoneError as error:
            await self._abandon(error)
        except UnavailableError as error:
            await self._fail(send, tell(error))
        finally:
            watch.stop()
            under_way.add(-counts)

    def _request(self, replica: Replica) -> bytes:
        self._asked = self._route.adapter or replica.base_name
        form = self._gateway.constraints.get(self._route.model) if self._dialect.constrains else None
        asks = self._body if form is None else self._body.constrained(form)
        body, trace = self._dialect.forwarded(asks, self._asked, self.id), self._trace
        traceparent = "" if trace is None else trace.header
        waits = replica.by_priority and self._purpose in _BACKGROUND
        return replica.connections.request("POST", self._dialect.path, body, self.id, traceparent, waits)

    # -- plain answers

    async def _answer(
        self, send: Send, status: int, kind: str, content: bytes, facts: Facts, error: str | None
    ) -> None:
        """Capture, then send: the header says whether the first worked."""
        captured = await self._captured(status, facts, self._dialect.kept(content), error)
        headers = self._headers(kind, captured)
        self.begun = True
        await _send_whole(send, status, headers, content)

    async def _refuse(self, send: Send, status: int, content: bytes) -> None:
        """The engine said no. What is wrong with the request is told as it came; the engine's own trouble is ours."""
        told_by_engine = read_error(content)
        message = told_by_engine or f"the engine answered with status {status}"
        if status == 501 or (status == 404 and told_by_engine is None):  # of a model it would say something
            path = self._dialect.path
            await self._fail(
                send, tell(NotFoundError(f"the engine of {self._route.model!r} does not serve {path}"))
            )
        elif status == 404:
            unavailable = UnavailableError(f"the engine cannot load {self._asked!r} ({message})", 2)
            await self._fail(send, tell(unavailable))
        elif status in (401, 403) or status < 400 or status >= 500:
            await self._fail(
                send, tell(BrokenAnswerError(f"the engine failed with status {status}: {message}"))
            )
        else:
            refused = content if has_error_object(content) else error_object(message, "invalid_request_error")
            told = self._dialect.told(Failure(status, message, refused, {}, "BadInputError"))
            await self._answer(send, status, "application/json", told, Facts(), message)

    async def _fail(self, send: Send, failure: Failure) -> None:
        """Answer with an error of ours; the inference is recorded all the same."""
        content = self._dialect.told(failure)
        captured = await self._captured(
            failure.status, Facts(), content.decode(), failure.message, failure.kind
        )
        headers = self._headers("application/json", captured)
        headers += [(name.encode("ascii"), value.encode("ascii")) for name, value in failure.headers.items()]
        self.begun = True
        await _send_whole(send, failure.status, headers, content)

    async def _abandon(self, error: ClientGoneError) -> None:
        """Nobody is there to be answered; what happened is recorded."""
        await self._captured(CLIENT_GONE, Facts(), None, str(error))

    # -- streams

    async def _stream(self, connection: Connection, patience: float, watch: ClientWatch, send: Send) -> None:
        """Pass events on as they come; `[DONE]` waits until the record stands."""
        events = self._dialect.stream(self._body, self._asked)
        promised = self._gateway.capture.problem is None
        headers = self._headers(connection.content_type, promised)
        headers.append((b"cache-control", b"no-store"))
        self.begun = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        failure: StarloopError | None = None
        status = 200
        try:
            while data := await connection.read(patience):
                passed = events.feed(data)
                if self._first_byte is None:
                    self._first_byte = perf_counter()
                if passed:
                    await send({"type": "http.response.body", "body": passed, "more_body": True})
            if not events.done:
                failure = BrokenAnswerError("the engine ended its stream before the answer was complete")
        except ClientGoneError as error:
            failure, status = error, CLIENT_GONE
        except UnavailableError as error:
            failure = error
        watch.stop()
        text, facts, failed = events.assemble()
        message = str(failure) if failure else failed
        kind = type(failure).__name__ if failure else "ErrorEvent" if failed else None
        captured = await self._captured(status, facts, text, message, kind)
        self._tokens = self._tokens or events.count
        if status == CLIENT_GONE:
            return
        if failure is None and promised and not captured:
            failure = StorageError("this answer could not be captured; its text above is complete")
        last = events.last(None if failure is None else tell(failure))
        await send({"type": "http.response.body", "body": last, "more_body": False})

    # -- what is told and kept

    def _headers(self, kind: str, captured: bool) -> _Headers:
        token = self._gateway.tokens.issue(self.id, self._body.user, self._created)
        return [
            (b"content-type", kind.encode("latin-1")),
            (b"x-starloop-inference-id", self.id.encode("ascii")),
            (b"x-starloop-version", self._route.name.encode("ascii")),
            (b"x-starloop-feedback-token", token.encode("ascii")),
            (b"x-starloop-captured", b"true" if captured else b"false"),
        ]

    async def _captured(
        self, status: int, facts: Facts, response: str | None, error: str | None, kind: str | None = None
    ) -> bool:
        """Write the record and report the end; False when the first was not possible. `kind` is the error's."""
        body, known = self._body, self._body.store
        kept = known and self._gateway.capture.keeps_content
        first = self._first_byte
        self._tokens = (facts.prompt_tokens or 0) + (facts.completion_tokens or 0)
        record = InferenceRecord(
            id=self.id,
            created=self._created.timestamp(),
            model=self._route.model,
            version=self._route.version,
            purpose=self._purpose,
            user=body.user if known else None,
            conversation=self._conversation if known else None,
            key_id=self._caller.key_id,
            streamed=body.stream,
            status=status,
            error=error if kept or error is None else f"status {status}",
            finish_reason=facts.finish_reason,
            request=body.text if kept else None,
            response=response if kept else None,
            prompt=body.prompt if kept else None,
            output=facts.output if kept else None,
            prompt_tokens=facts.prompt_tokens,
            completion_tokens=facts.completion_tokens,
            latency_ms=(perf_counter() - self._started) * 1000,
            first_token_ms=None if first is None else (first - self._started) * 1000,
            metadata=dict(body.metadata) if known and body.metadata else None,
            stored=kept,
            pinned=is_pinned(body.model),
            listed=kept and body.lists and status == 200 and error is None,
        )
        if self._conversation is not None and answers_a_conversation(record):
            self._gateway.conversations.answered(
                record.model, self._conversation, record.version, record.created
            )
        try:
            await self._gateway.capture.inference(record)
            captured = True
        except StorageError:
            captured = False
        self._gateway.reports.inference(self._dialect.path, record, captured, kind, self._trace)
        return captured


async def _send_whole(send: Send, status: int, headers: _Headers, content: bytes) -> None:
    headers.append((b"content-length", str(len(content)).encode("ascii")))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})
