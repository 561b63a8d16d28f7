"""Asks a teacher, a stronger model behind OpenAI's API or Anthropic's, for the right answer to a prompt.

What is away or busy is asked again a few times, as late as it says; what it refuses is said at once. The key comes from the
environment, goes into one header, and into no message, log or record.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import httpx
from msgspec import Struct

from feedback.datasets.contract import TaskContract
from feedback.errors import NotAllowedError, SettingsError, StarloopError, UnavailableError
from feedback.settings import ApiKind
from trainer.api_shapes import SHAPES, otherwise

KEY_VARIABLE = "STARLOOP_TEACHER_KEY"
_AWAY = {408, 409, 429, 500, 502, 503, 504, 529}
_REFUSED = {400, 413, 422}
_LONGEST_WAIT = 60.0
_LARGEST = 16 << 20
_CHARACTERS = 3
"""Per token, for an estimate that is rather too high."""


class Endpoint(Protocol):
    """The settings of whoever is asked: `[teacher]`, `[judge]` or a `[[contender]]`."""

    @property
    def url(self) -> str: ...
    @property
    def kind(self) -> ApiKind: ...
    @property
    def model(self) -> str: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def budget_tokens(self) -> int: ...
    @property
    def budget_money(self) -> float: ...
    @property
    def price_in(self) -> float: ...
    @property
    def price_out(self) -> float: ...
    @property
    def timeout_seconds(self) -> float: ...
    @property
    def retries(self) -> int: ...


class Reply(Struct, frozen=True):
    """One answer of a teacher, and what it took."""

    text: str
    finish_reason: str | None
    tokens_in: int
    tokens_out: int


class PromptRefusedError(StarloopError):
    """It takes no such prompt (too long, say); what it says stands in the message."""


class Teacher:
    """A client of one teacher, one judge or one contender."""

    def __init__(
        self,
        settings: Endpoint,
        key: str | None,
        *,
        who: str = "teacher",
        variable: str = KEY_VARIABLE,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        """`who` is the section that it stands in, `variable` where its key comes from. Raises `SettingsError` where that
        names no model. `pause` waits, and says whether to give up."""
        if not settings.model:
            raise SettingsError(
                [f"{who}.model: is empty; name the model that [{who}] url is to be asked for"]
            )
        self._settings = settings
        self._section = who
        self._who = f"the {who} at {settings.url}"
        self._variable = variable
        self._key = key or ""
        self._shape = SHAPES[settings.kind]
        self._refusals: list[str] = []
        """What it said of parameters of ours, which it is asked without from then on."""
        self._halted = threading.Event()
        self._pause = pause or self._halted.wait
        self._client = httpx.Client(
            headers=self._shape.headers(self._key),
            timeout=httpx.Timeout(settings.timeout_seconds, connect=min(10.0, settings.timeout_seconds)),
            transport=transport,
        )

    def close(self) -> None:
        """End a waiting call and give the connection back."""
        self._halted.set()
        self._client.close()

    def ask(self, messages: Sequence[Mapping[str, Any]]) -> Reply:
        """The teacher's greedy answer.

        Raises `NotAllowedError` for a key that it refuses, `UnavailableError` where it stays away, `PromptRefusedError` for a
        prompt that it does not take, `StarloopError` for what it says no to otherwise.
        """
        body = self._shape.body(self._settings.model, messages, self._settings.max_tokens)
        for told in self._refusals:
            body = otherwise(body, told) or body
        url = f"{self._settings.url.rstrip('/')}{self._shape.path}"
        response = self._call(url, body)
        while response.status_code in _REFUSED and (again := otherwise(body, told := self._told(response))):
            self._refusals.append(told)
            body = again
            response = self._call(url, body)
        if response.status_code in (401, 403):
            raise NotAllowedError(
                f"{self._who} refused the key ({response.status_code}); set {self._variable}"
            )
        if not response.is_success:
            kind = PromptRefusedError if response.status_code in _REFUSED else StarloopError
            raise kind(f"{self._who} answered {response.status_code}: {self._told(response)}")
        return self._reply(response, messages)

    def too_dear(self, messages: Sequence[Mapping[str, Any]], tokens: int, money: float, what: str) -> str:
        """Why one more `what` is not asked for, after so many tokens and so much money of this month; empty where it may be."""
        settings = self._settings
        most_tokens, most_money = self.most(messages)
        if tokens + most_tokens <= settings.budget_tokens and money + most_money <= settings.budget_money:
            return ""
        return (
            f"the month's budget has {settings.budget_tokens - tokens} of {settings.budget_tokens} tokens and "
            f"{settings.budget_money - money:.2f} of {settings.budget_money:g} left, and one more {what} may take "
            f"{most_tokens} and {most_money:.4f}; raise [{self._section}] budget_tokens or budget_money"
        )

    def cost(self, reply: Reply) -> float:
        """What an answer cost, in the currency of the prices."""
        return (reply.tokens_in * self._settings.price_in + reply.tokens_out * self._settings.price_out) / 1e6

    def most(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
        """Most tokens and money that the answer to a prompt may take: what has to be left before it is asked."""
        longest = Reply("", None, estimated(messages), self._settings.max_tokens)
        return longest.tokens_in + longest.tokens_out, self.cost(longest)

    def _call(self, url: str, body: Mapping[str, Any]) -> httpx.Response:
        delay = 1.0
        for attempt in range(self._settings.retries + 1):
            wait = delay
            try:
                response = self._answer(url, body)
            except httpx.TimeoutException:
                problem = f"no answer within {self._settings.timeout_seconds:g} s"
            except (httpx.RequestError, httpx.InvalidURL) as error:
                problem = self._without_key(f"{type(error).__name__}: {error}")
            else:
                if response.status_code not in _AWAY:
                    return response
                problem, wait = (
                    f"status {response.status_code}: {self._told(response)}",
                    _wait(response, delay),
                )
            if attempt < self._settings.retries and self._pause(wait):
                break
            delay = min(2 * delay, _LONGEST_WAIT)
        raise UnavailableError(f"{self._who} did not answer: {problem}", 60)

    def _answer(self, url: str, body: Mapping[str, Any]) -> httpx.Response:
        """Its answer, of bounded size and time: httpx bounds the wait for each piece only."""
        until = time.monotonic() + self._settings.timeout_seconds
        content = bytearray()
        with self._client.stream("POST", url, json=body) as response:
            for piece in response.iter_bytes():
                content += piece
                if len(content) > _LARGEST:
                    raise StarloopError(
                        f"{self._who} sent more than {_LARGEST >> 20} MB, which is no chat completion"
                    )
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("the answer goes on for too long")
        kept = {name: response.headers[name] for name in ("retry-after",) if name in response.headers}
        return httpx.Response(response.status_code, headers=kept, content=bytes(content))

    def _reply(self, response: httpx.Response, messages: Sequence[Mapping[str, Any]]) -> Reply:
        try:
            said = self._shape.read(response.json())
            text = said.text.strip()
            text.encode()  # what holds half a character can be stored nowhere
            return Reply(
                text,
                said.finish_reason if isinstance(said.finish_reason, str) else None,
                _tokens(said.tokens_in, estimated(messages)),
                _tokens(said.tokens_out, len(text) // _CHARACTERS + 1),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise StarloopError(
                f"{self._who} sent no chat completion: {self._without_key(response.text[:200])!r}"
            ) from None

    def _told(self, response: httpx.Response) -> str:
        try:
            text = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            text = response.text
        return self._without_key(text[:300])

    def _without_key(self, text: str) -> str:
        """Some services repeat a key that they refuse."""
        return text.replace(self._key, "…") if self._key else text


def in_form(messages: Sequence[Mapping[str, Any]], contract: TaskContract) -> list[Mapping[str, Any]]:
    """The prompt as the model got it, and before it what form the answer must have."""
    if contract.schema is None:
        return list(messages)
    schema = json.dumps(contract.schema, ensure_ascii=False)
    told = f"Answer with JSON alone, without any other text, that meets this JSON schema: {schema}"
    first, *rest = messages
    if first.get("role") == "system":
        return [{"role": "system", "content": f"{first['content']}\n\n{told}"}, *rest]
    return [{"role": "system", "content": told}, *messages]


def estimated(messages: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of a prompt, rather too many."""
    return sum(len(str(message.get("content") or "")) // _CHARACTERS + 8 for message in messages)


def clock_month(now: float) -> float:
    """When the calendar month (UTC) of a time began."""
    moment = time.gmtime(now)
    return (
        now
        - (((moment.tm_mday - 1) * 24 + moment.tm_hour) * 60 + moment.tm_min) * 60
        - moment.tm_sec
        - now % 1
    )


def _tokens(told: Any, otherwise: int) -> int:
    """A count that it tells; one that cannot be one would lift the budget."""
    return told if type(told) is int and 0 < told < 1 << 31 else otherwise


def _wait(response: httpx.Response, default: float) -> float:
    """Seconds that it asks for."""
    try:
        wait = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return default
    return min(wait, _LONGEST_WAIT) if wait >= 0.0 else default
