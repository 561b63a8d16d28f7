"""A Ray cluster's jobs, over its own HTTP interface: no part of Ray is needed on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self

import httpx
import msgspec
from msgspec import Struct

from feedback.errors import BadInputError, UnavailableError

TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
"""The variable of the environment from which Ray's own clients take a cluster's token."""
OVER = ("STOPPED", "SUCCEEDED", "FAILED")
"""How a job may have ended."""
_SECONDS = 5.0
_SUBMIT_SECONDS = 60.0
"""A cluster that has just begun takes a job only when its first node is ready."""


class Job(Struct, frozen=True):
    """What the cluster says of one."""

    status: str
    message: str | None = None


class Cluster:
    """A Ray cluster's jobs, at the address of its dashboard. Every method raises `UnavailableError` where it does not answer,
    and `BadInputError` where what answers is not Ray or lets nobody in, as making one does where the address is none."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        token = os.environ.get(TOKEN_VARIABLE)
        try:
            self._client = httpx.Client(
                base_url=self._address,
                trust_env=False,
                headers={"authorization": f"Bearer {token}"} if token else {},
            )
        except httpx.InvalidURL as error:
            raise BadInputError(
                f"[training] ray = {address!r} is no address ({error}); write that of the cluster's dashboard, such as "
                "http://head:8265"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def release(self) -> str:
        """Ray's version."""
        found = self._ask("GET", "/api/version") or {}
        if not isinstance(found.get("ray_version"), str):
            raise self._no_ray()
        return str(found["ray_version"])

    def submit(
        self, job: str, entrypoint: str, about: str, *, cpus: int, gpus: int = 0, memory: int = 0
    ) -> None:
        """Hand a job in. It runs as soon as a node has the processors, and the bytes of memory, that it asks for."""
        wanted: dict[str, Any] = {"entrypoint_num_cpus": cpus, "entrypoint_num_gpus": gpus}
        if memory:
            wanted["entrypoint_memory"] = memory
        body = {
            "entrypoint": entrypoint,
            "submission_id": job,
            "metadata": {"starloop": about},
            **wanted,
        }
        if self._ask("POST", "/api/jobs/", body, _SUBMIT_SECONDS) is None:
            raise self._no_ray()

    def look(self, job: str) -> Job | None:
        """How a job stands; None where the cluster does not know it."""
        found = self._ask("GET", f"/api/jobs/{job}")
        if found is None:
            return None
        try:
            return msgspec.convert(found, Job)
        except msgspec.ValidationError:
            raise self._no_ray() from None

    def log(self, job: str) -> str:
        """What the job printed, as far as the cluster still has it."""
        return str((self._ask("GET", f"/api/jobs/{job}/logs") or {}).get("logs", ""))

    def stop(self, job: str) -> None:
        """Tell a job to end; one that has ended, or is not there, is no error."""
        self._ask("POST", f"/api/jobs/{job}/stop")

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, seconds: float = _SECONDS
    ) -> dict[str, Any] | None:
        """The answer; None for 404."""
        try:
            answer = self._client.request(method, path, json=body, timeout=seconds)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"Ray at {self._address} does not answer ({str(error) or type(error).__name__}); start the cluster, or "
                "mend [training] ray"
            ) from error
        if answer.status_code == 404:
            return None
        if answer.status_code in (401, 403):
            raise BadInputError(
                f"Ray at {self._address} lets nobody in without its token; set {TOKEN_VARIABLE} in Starloop's environment"
            )
        if answer.status_code >= 400:
            said = answer.text.strip().splitlines()[-1:] or [answer.reason_phrase]
            told = f"Ray at {self._address} answered {answer.status_code}: {said[0][:300]}"
            raise UnavailableError(told) if answer.status_code >= 500 else BadInputError(told)
        try:
            found = msgspec.json.decode(answer.content)
        except msgspec.DecodeError:
            found = None
        if not isinstance(found, dict):
            raise self._no_ray()
        return found

    def _no_ray(self) -> BadInputError:
        return BadInputError(
            f"what answers at {self._address} is not Ray's jobs server; [training] ray is the address of the cluster's "
            "dashboard, such as http://head:8265"
        )
