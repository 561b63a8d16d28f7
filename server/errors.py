"""One table from errors to answers: status and OpenAI's error object, for every route."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from feedback.errors import (
    BadFieldError,
    BadInputError,
    ConflictError,
    DataRefusedError,
    HeadTooLargeError,
    LimitReachedError,
    NoKeyError,
    NotAllowedError,
    NotFoundError,
    SettingsError,
    StarloopError,
    StorageError,
    TooLargeError,
    UnavailableError,
    UnsoundAdapterError,
)
from server.answers import WrongAnswerError
from server.connections import BrokenAnswerError, SlowEngineError
from server.decoding import explain
from server.routing import UnknownModelError

_log = logging.getLogger(__name__)


class Form(NamedTuple):
    """How one kind of error is told: HTTP status, OpenAI's type and code."""

    status: int
    type: str
    code: str | None = None


_FORMS: dict[type[Exception], Form] = {
    BadInputError: Form(400, "invalid_request_error"),
    HeadTooLargeError: Form(431, "invalid_request_error", "headers_too_large"),
    TooLargeError: Form(413, "invalid_request_error", "request_too_large"),
    NoKeyError: Form(401, "authentication_error", "invalid_api_key"),
    NotAllowedError: Form(403, "permission_error"),
    NotFoundError: Form(404, "invalid_request_error", "not_found"),
    UnknownModelError: Form(404, "invalid_request_error", "model_not_found"),
    ConflictError: Form(409, "conflict_error"),
    DataRefusedError: Form(409, "conflict_error", "data_refused"),
    UnsoundAdapterError: Form(409, "conflict_error", "unsound_adapter"),
    LimitReachedError: Form(429, "rate_limit_error", "rate_limit_exceeded"),
    UnavailableError: Form(503, "service_unavailable_error"),
    BrokenAnswerError: Form(502, "engine_error"),
    WrongAnswerError: Form(502, "engine_error"),
    SlowEngineError: Form(504, "engine_error", "timeout"),
    StorageError: Form(507, "storage_error"),
    SettingsError: Form(500, "server_error"),
    StarloopError: Form(500, "server_error"),
}
_BY_STATUS = {
    400: Form(400, "invalid_request_error"),
    404: Form(404, "invalid_request_error", "not_found"),
    405: Form(405, "invalid_request_error", "method_not_allowed"),
    413: Form(413, "invalid_request_error", "request_too_large"),
}
_UNEXPECTED = Form(500, "server_error")


class Failure(NamedTuple):
    """An error in the form in which it leaves the house."""

    status: int
    message: str
    content: bytes
    headers: dict[str, str]
    kind: str
    """The error's class: all of it that may stand in a log."""


def tell(error: Exception) -> Failure:
    """The answer to an error; one that nobody raised on purpose is logged and told without its details."""
    headers: dict[str, str] = {}
    param: str | None = None
    if isinstance(error, HTTPException):
        form = _BY_STATUS.get(error.status_code, Form(error.status_code, _type_of(error.status_code)))
        message, param = _http_message(error)
        headers = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    else:
        found = next((_FORMS[kind] for kind in type(error).__mro__ if kind in _FORMS), None)
        form = found or _UNEXPECTED
        if found is None:
            # Where it arose and its kind, but not its message, which may hold what a user wrote.
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("unexpected %s:\n%s", type(error).__name__, where)
            message = "something went wrong in the gateway; its log says what"
        else:
            message = str(error)
    if isinstance(error, BadFieldError):
        param = error.field
    if isinstance(error, UnavailableError | LimitReachedError):
        headers["retry-after"] = str(error.retry_after)
    if isinstance(error, NoKeyError):
        headers["www-authenticate"] = "Bearer"
    content = error_object(message, form.type, form.code, param)
    return Failure(form.status, message, content, headers, type(error).__name__)


def error_object(message: str, kind: str, code: str | None = None, param: str | None = None) -> bytes:
    """OpenAI's error object as JSON."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


ANYWHERE = {"access-control-allow-origin": "*"}
BY_TOKEN = "by_token"
"""In a request's state: it came with a feedback token, so pages of any site may read why it was refused."""


TOLD = "told"
"""In a route's `opt`: its API's own shape of an error, as a function of the failure."""


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's hook: every exception of every route ends here."""
    answer = answer_to(error, _shape(request))
    if request.state.get(BY_TOKEN):
        answer.headers.update(ANYWHERE)
    return answer


def _shape(request: Request[Any, Any, Any]) -> Callable[[Failure], bytes] | None:
    route = request.scope.get("route_handler")
    return None if route is None else route.opt.get(TOLD)


def answer_to(error: Exception, shape: Callable[[Failure], bytes] | None = None) -> Response[bytes]:
    """The response that tells an error, in OpenAI's shape or in another."""
    failure = tell(error)
    content = failure.content if shape is None else shape(failure)
    return Response(
        content, status_code=failure.status, headers=failure.headers, media_type="application/json"
    )


def _type_of(status: int) -> str:
    return "invalid_request_error" if status < 500 else "server_error"


def _http_message(error: HTTPException) -> tuple[str, str | None]:
    """A sentence for what the framework refused, and the field it is about."""
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        problems = [_problem(one) for one in error.extra if isinstance(one, dict)]
        if problems:
            return "; ".join(text for text, _ in problems), problems[0][1]
    if error.status_code == 405:
        return f"the method is not allowed here; allowed: {(error.headers or {}).get('allow', 'none')}", None
    if error.status_code == 404:
        return "there is no such address; GET /schema lists those there are", None
    if error.status_code == 413:
        return (
            "the body is larger than server.body_limit allows; send less, or have the operator raise it",
            None,
        )
    return error.detail, None


_ASKED_AS = {"case_state": "state", "of_state": "state"}
"""Handlers' names of query parameters, where Litestar keeps the asked one for itself, and what clients call them."""


def _problem(extra: dict[str, Any]) -> tuple[str, str | None]:
    """One of the framework's findings about a parameter, as `field: problem`."""
    key = str(extra.get("key", ""))
    field, problem = explain(str(extra.get("message", "")), _ASKED_AS.get(key, key))
    return f"{field}: {problem}", field
