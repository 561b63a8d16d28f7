"""What the simulated people do over HTTP: the `openai` client for answers, plain requests for the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
from openai import AsyncOpenAI, omit

from feedback.errors import UnavailableError
from server.demo.population import Opinion, Request

MODEL = "assistant"
_CONCURRENCY = 32
_MAX_TOKENS = 24


@dataclass(frozen=True)
class Answer:
    """One answer as its reader saw it."""

    text: str
    inference_id: str
    version: str
    milliseconds: float


class DemoClient:
    """A Starloop address, and the people's side of its API."""

    def __init__(self, address: str) -> None:
        self.address = address
        limits = httpx.Limits(max_connections=_CONCURRENCY, max_keepalive_connections=_CONCURRENCY)
        self._openai = AsyncOpenAI(
            base_url=f"{address}/v1",
            api_key="demo",
            max_retries=2,
            timeout=120,
        )
        self._http = httpx.AsyncClient(base_url=address, timeout=120, limits=limits)

    async def close(self) -> None:
        await self._openai.close()
        await self._http.aclose()

    async def ask(self, model: str, text: str, user: str | None, evaluation: bool = False) -> Answer:
        """One chat completion through the official client."""
        started = time.perf_counter()
        raw = await self._openai.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": text}],
            temperature=0,
            max_tokens=_MAX_TOKENS,
            user=user or omit,
            extra_headers={"x-starloop-purpose": "evaluation"} if evaluation else None,
        )
        milliseconds = (time.perf_counter() - started) * 1000
        completion = raw.parse()
        return Answer(
            completion.choices[0].message.content or "",
            raw.headers["x-starloop-inference-id"],
            raw.headers["x-starloop-version"],
            milliseconds,
        )

    async def rate(self, answer: Answer, request: Request, opinion: Opinion) -> None:
        """Send a rating, with the correction if there is one."""
        body: dict[str, Any] = {
            "inference_id": answer.inference_id,
            "rating": opinion.rating,
            "rater": request.user,
        }
        if opinion.correction is not None:
            body["correction"] = opinion.correction
        await self._call("POST", "/v1/feedback", body)

    async def converse(
        self,
        requests: Sequence[Request],
        think: Callable[[Request, str], Opinion | None],
        advance: Callable[[], None],
    ) -> list[tuple[Request, Answer, Opinion | None]]:
        """Send all requests, let every user say what they think, and return what happened, in order."""

        async def one(request: Request) -> tuple[Request, Answer]:
            answer = await self.ask(MODEL, request.message.text, request.user)
            return request, answer

        heard: list[tuple[Request, Answer, Opinion | None]] = []
        for answered in await bounded([partial(one, request) for request in requests], advance):
            request, answer = answered
            heard.append((request, answer, think(request, answer.text)))
        rated = [(request, answer, opinion) for request, answer, opinion in heard if opinion is not None]
        await bounded(
            [partial(self.rate, answer, request, opinion) for request, answer, opinion in rated], lambda: None
        )
        return heard

    async def review(self, count: int, right: dict[str, str], advance: Callable[[], None]) -> int:
        """Be the reviewer: draw cases for the golden set and confirm each with its right answer.

        What somebody else asked meanwhile, on the page for instance, is no simulated person's to judge: it is dropped.
        """
        drawn = (await self._call("POST", "/v1/cases/draw", {"model": MODEL, "count": count}))["items"]

        async def one(case: dict[str, Any]) -> None:
            answer = right.get(case["messages"][-1]["content"])
            if answer is None:
                await self._call("POST", f"/v1/cases/{case['id']}/drop")
            else:
                await self._call("POST", f"/v1/cases/{case['id']}/confirm", {"answer": answer})

        await bounded([partial(one, case) for case in drawn], advance)
        return len(drawn)

    async def cycle(self, guards_off: Sequence[str], show: Callable[[str], None]) -> dict[str, Any]:
        """Ask for a cycle and wait until it has ended."""
        body = {"model": MODEL, "mode": "auto", "guards_off": list(guards_off)}
        cycle = await self._call("POST", "/v1/cycles", body)
        while cycle["state"] in ("queued", "running", "canary"):
            show(cycle["step"] or cycle["state"])
            await asyncio.sleep(0.5)
            cycle = await self._call("GET", f"/v1/cycles/{cycle['id']}")
        return cycle

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        response = await self._http.request(method, path, json=body)
        if response.is_error:
            raise UnavailableError(f"{method} {path} answered {response.status_code}: {response.text[:500]}")
        found: dict[str, Any] = response.json()
        return found


async def bounded(calls: Sequence[Callable[[], Any]], advance: Callable[[], None]) -> list[Any]:
    """Await all calls with a bounded number under way; results in the order of the calls."""
    gate = asyncio.Semaphore(_CONCURRENCY)

    async def one(call: Callable[[], Any]) -> Any:
        async with gate:
            result = await call()
        advance()
        return result

    return await asyncio.gather(*(one(call) for call in calls))
