"""The server's own API as the loop uses it: asking a version, promoting one.

Going through the endpoint means that what is judged is what users get, from whatever machine the loop runs on.
What is away for a moment is asked again; what is refused is said at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from feedback.datasets.tool_calls import answer_text
from feedback.errors import ConflictError, NotAllowedError, NotFoundError, StarloopError, UnavailableError
from feedback.settings import Settings

_AWAY = {429, 500, 502, 503, 504}
_REFUSED = {400, 413, 422}
_UNKNOWN_SECONDS = 20.0
"""How long an unknown version is asked for: the gateway hears of a new one a moment after the registry does."""


_REFUSAL = "refused: "


class Answer(Struct, frozen=True):
    """One answer of one version, and what it took."""

    text: str
    finish_reason: str | None
    completion_tokens: int | None
    latency_ms: float

    @property
    def refused(self) -> bool:
        """The server did not take the prompt, or not as it was asked. What is mended there may change that."""
        return (self.finish_reason or "").startswith(_REFUSAL)


class _Choice(Struct, frozen=True):
    message: dict[str, Any] | None = None
    finish_reason: str | None = None


class _Usage(Struct, frozen=True):
    completion_tokens: int | None = None


class _Completion(Struct, frozen=True):
    """What is read of a chat completion; engines leave parts of it out."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None


class Gateway:
    """A client of one Starloop server. Safe to use from several threads."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        request_seconds: float = 120.0,
        patience: float = 60.0,
        connections: int = 16,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        """`patience` is in seconds: how long what is away is asked again. `pause` waits, and says whether to give up."""
        self._patience = patience
        self._clock = clock
        self._halted = threading.Event()
        self._pause = pause or self._halted.wait
        self._client = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(request_seconds, connect=10.0),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            transport=transport,
            trust_env=False,
        )
        self.url = url

    def close(self) -> None:
        """End waiting calls and give the connections back."""
        self._halted.set()
        self._client.close()

    def complete(
        self,
        version: str,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int,
        tools: Sequence[Any] | None = None,
    ) -> Answer:
        """The greedy answer of `version` (`assistant@1.2`, `assistant@base`) to a prompt; one that calls as `answer_text` has it.

        A prompt that the server refuses (too long, say) comes back as an empty answer whose finish reason says so: no
        version can pass such a case. Raises `UnavailableError` where the server or its engine stays away.
        """
        body = {
            "model": version,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": max_tokens,
            **_offering(tools),
        }
        response, seconds = self._call("/v1/chat/completions", body, {"x-starloop-purpose": "evaluation"})
        if response.status_code in _REFUSED:
            return Answer("", f"{_REFUSAL}{_problem(response)}"[:200], None, 1000 * seconds)
        completion = _completion(response, version)
        choice = (completion.choices or [_Choice()])[0]
        return Answer(
            text=answer_text(choice.message or {}),
            finish_reason=choice.finish_reason,
            completion_tokens=(completion.usage or _Usage()).completion_tokens,
            latency_ms=1000 * seconds,
        )

    def sample(
        self,
        version: str,
        messages: Sequence[Mapping[str, Any]],
        n: int,
        temperature: float,
        max_tokens: int,
        tools: Sequence[Any] | None = None,
    ) -> list[tuple[str, str | None]]:
        """`n` answers of `version` drawn at `temperature`, each with its finish reason; none where the prompt is refused."""
        body = {
            "model": version,
            "messages": list(messages),
            "n": n,
            "temperature": temperature,
            "max_tokens": max_tokens,
            **_offering(tools),
        }
        response, _ = self._call("/v1/chat/completions", body, {"x-starloop-purpose": "evaluation"})
        if response.status_code in _REFUSED:
            return []
        choices = _completion(response, version).choices or []
        return [(answer_text(choice.message or {}), choice.finish_reason) for choice in choices]

    def begin_canary(
        self,
        model: str,
        version: str,
        share: float,
        hours: float,
        reason: str,
        cycle_id: str,
        instead_of: str,
    ) -> None:
        """Give `version` a share of the users beside the champion `instead_of` (or `base`), warmed up first by the server.

        Raises `ConflictError` where it may not, or another one is the champion.
        """
        body = {
            "version": version,
            "share": share,
            "hours": hours,
            "reason": reason,
            "cycle_id": cycle_id,
            "instead_of": instead_of,
        }
        response, _ = self._call(f"/v1/models/{model}/canary", body, {})
        _raise_for(response, f"beginning the canary of {model}@{version}")

    def roll_back(self, model: str, version: str, reason: str) -> None:
        """Go back to `version`, the champion before; named, so that what is asked for twice goes back once.

        Raises `ConflictError` where another one is the champion before, or none, and `UnavailableError` at once.
        """
        body = {"version": version, "reason": reason}
        response, _ = self._call(f"/v1/models/{model}/rollback", body, {}, patience=0.0)
        _raise_for(response, f"rolling {model} back")

    def promote(
        self,
        model: str,
        version: str,
        reason: str,
        cycle_id: str | None,
        instead_of: str,
        *,
        once: bool = False,
    ) -> None:
        """Move the champion from `instead_of` (or `base`) to `version`, warmed up first by the server.

        Raises `ConflictError` where it may not, or another one is the champion; `UnavailableError`, where `once` at once.
        """
        patience = 0.0 if once else None
        body = {"version": version, "reason": reason, "cycle_id": cycle_id, "instead_of": instead_of}
        response, _ = self._call(f"/v1/models/{model}/promote", body, {}, patience=patience)
        _raise_for(response, f"promoting {model}@{version}")

    def _call(
        self, path: str, body: dict[str, Any], headers: dict[str, str], patience: float | None = None
    ) -> tuple[httpx.Response, float]:
        """The response, and the seconds of the attempt that brought it. `patience` (s), where given, is this call's own."""
        patience = self._patience if patience is None else patience
        begun = self._clock()
        delay = 0.25
        while True:
            started = self._clock()
            try:
                response = self._client.post(path, json=body, headers=headers)
            except httpx.TransportError as error:
                problem, wait = f"{type(error).__name__}: {error}", delay
            else:
                ended = self._clock()
                unknown = response.status_code == 404 and ended - begun < _UNKNOWN_SECONDS
                if response.status_code not in _AWAY and not unknown:
                    return response, ended - started
                problem, wait = _problem(response), _retry_after(response, delay)
            if self._clock() + wait - begun > patience or self._pause(wait):
                raise UnavailableError(
                    f"the server at {self.url} did not answer {path}: {problem}; is `starloop serve` up, and its engine?"
                )
            delay = min(2 * delay, 5.0)


def open_gateway(settings: Settings, key: str | None) -> Gateway:
    """The client of the configured server, which is reached where it listens."""
    host = settings.server.host
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1"
    return Gateway(
        f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}",
        key,
        request_seconds=settings.evaluation.request_seconds,
        connections=settings.evaluation.concurrency,
    )


def _offering(tools: Sequence[Any] | None) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}


def _raise_for(response: httpx.Response, doing: str) -> None:
    if response.is_success:
        return
    kinds: dict[int, type[StarloopError]] = {
        401: NotAllowedError,
        403: NotAllowedError,
        404: NotFoundError,
        409: ConflictError,
    }
    kind = kinds.get(response.status_code, StarloopError)
    raise kind(f"{doing}: the server answered {response.status_code}: {_problem(response)}")


def _problem(response: httpx.Response) -> str:
    """What an error body says, OpenAI's form or not."""
    try:
        error = response.json()["error"]
        return str(error["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200] or f"status {response.status_code}"


def _completion(response: httpx.Response, version: str) -> _Completion:
    """The answer in a response. Raises `StarloopError` where the server refuses, or its engine sent something else."""
    _raise_for(response, f"asking {version}")
    try:
        return msgspec.json.decode(response.content, type=_Completion)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StarloopError(
            f"asking {version}: what came is no chat completion: {error} in {response.text[:200]!r}; look whether the "
            "engine that serves it speaks OpenAI's API"
        ) from None


def _retry_after(response: httpx.Response, default: float) -> float:
    try:
        return min(float(response.headers["retry-after"]), 5.0)
    except (KeyError, ValueError):
        return default
