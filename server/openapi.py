"""The OpenAPI document: made from the handlers, and by hand for the routes whose bodies pass through."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from litestar import MediaType, Request, Response, Router
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIFormat

from server.dialects.messages import MESSAGES_API
from server.errors import answer_to

PATH = "/schema"
_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL},
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
_MESSAGES_ERROR = {
    "type": "object",
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "properties": {"type": _TEXT, "message": _TEXT},
            "required": ["type", "message"],
        },
    },
    "required": ["type", "error"],
}


@dataclass
class ChatOperation(Operation):
    """A body of which the gateway reads some fields and passes all on."""

    def __post_init__(self) -> None:
        message = Schema(
            type=OpenAPIType.OBJECT,
            properties={"role": Schema(type=OpenAPIType.STRING), "content": Schema()},
            required=["role"],
        )
        _pass_through(self, "messages", Schema(type=OpenAPIType.ARRAY, items=message, min_items=1))


@dataclass
class CompletionOperation(Operation):
    """A body of which the gateway reads some fields and passes all on."""

    def __post_init__(self) -> None:
        _pass_through(self, "prompt", Schema(type=[OpenAPIType.STRING, OpenAPIType.ARRAY]))


@dataclass
class ResponseOperation(Operation):
    """A body of which the gateway reads some fields and passes all on."""

    def __post_init__(self) -> None:
        _pass_through(self, "input", Schema(type=[OpenAPIType.STRING, OpenAPIType.ARRAY]))


@dataclass
class MessagesOperation(ChatOperation):
    """As a conversation, in Anthropic's shape."""


@dataclass
class TokensOperation(MessagesOperation):
    """A conversation that is counted and not answered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        count = Schema(
            type=OpenAPIType.OBJECT,
            properties={"input_tokens": Schema(type=OpenAPIType.INTEGER)},
            required=["input_tokens"],
        )
        content = {"application/json": OpenAPIMediaType(schema=count)}
        self.responses = {"200": OpenAPIResponse(description="How many tokens it has", content=content)}


@dataclass
class EmbeddingOperation(Operation):
    """A body of which the gateway reads some fields and passes all on."""

    def __post_init__(self) -> None:
        _pass_through(self, "input", Schema(type=[OpenAPIType.STRING, OpenAPIType.ARRAY]))


@dataclass
class FileOperation(Operation):
    """A form with a file, which the handler reads piece by piece itself."""

    def __post_init__(self) -> None:
        purposes = Schema(type=OpenAPIType.STRING, enum=["fine-tune", "batch", "evals", "user_data"])
        _form(self, "file", {"purpose": purposes})


@dataclass
class PartOperation(Operation):
    """A form with a part of a file."""

    def __post_init__(self) -> None:
        _form(self, "data", {})


@dataclass
class AnnouncedFileOperation(Operation):
    """A form that says what file is to come."""

    def __post_init__(self) -> None:
        text = Schema(type=OpenAPIType.STRING)
        purposes = Schema(type=OpenAPIType.STRING, enum=["fine-tune", "eval", "batch-api"])
        types = Schema(type=OpenAPIType.STRING, enum=["jsonl", "parquet", "csv"])
        fields = {"purpose": purposes, "file_name": text, "file_type": types, "checksum": text}
        body = Schema(
            type=OpenAPIType.OBJECT,
            properties=dict(fields),
            required=["purpose", "file_name", "file_type"],
            additional_properties=False,
        )
        self.request_body = RequestBody(
            content={"multipart/form-data": OpenAPIMediaType(schema=body)}, required=True
        )


@dataclass
class BytesOperation(Operation):
    """A body that is a file, which the handler reads piece by piece itself."""

    def __post_init__(self) -> None:
        content = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
        self.request_body = RequestBody(
            content={"application/octet-stream": OpenAPIMediaType(schema=content)}, required=True
        )


class DocumentPlugin(JsonRenderPlugin):
    """The document with the errors that are really answered: Litestar writes down its own form of them."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        openapi_schema["components"]["schemas"] |= {"Error": _ERROR, "MessagesError": _MESSAGES_ERROR}
        for path, item in openapi_schema["paths"].items():
            failed = _failed("MessagesError" if path.startswith(MESSAGES_API.path) else "Error")
            for operation in item.values():
                responses = operation["responses"]
                responses.pop("400", None)
                responses["default"] = failed
        return super().render(request, openapi_schema)


def configuration() -> OpenAPIConfig:
    """Served as JSON from `/schema`, by this process alone: no page, no foreign host."""
    bearer = SecurityScheme(type="http", scheme="bearer", description="An API key: `starloop keys create`")
    return OpenAPIConfig(
        title="Starloop",
        version=version("starloop"),
        description="An OpenAI-compatible endpoint that keeps what was asked, answered and said about it.",
        openapi_router=Router(PATH, route_handlers=[], include_in_schema=False, after_request=_in_our_words),
        render_plugins=[DocumentPlugin(path=["/", "/openapi.json"], media_type=MediaType.JSON)],
        use_handler_docstrings=True,
        components=Components(security_schemes={"key": bearer}),
        security=[{"key": []}, {}],
    )


def _failed(schema: str) -> dict[str, Any]:
    return {
        "description": "What was wrong, where, and what to do",
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


async def _in_our_words(response: Response[Any]) -> Response[Any]:
    """Litestar answers other addresses under `/schema` with a page of its own."""
    return answer_to(NotFoundException()) if response.status_code == 404 else response


def _form(operation: Operation, file: str, fields: dict[str, Schema]) -> None:
    content = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
    body = Schema(
        type=OpenAPIType.OBJECT,
        properties={file: content, **fields},
        required=[file, *fields],
        additional_properties=False,
    )
    operation.request_body = RequestBody(
        content={"multipart/form-data": OpenAPIMediaType(schema=body)}, required=True
    )


def _pass_through(operation: Operation, content: str, schema: Schema) -> None:
    text, flag = Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.BOOLEAN)
    fields = {
        "model": Schema(type=OpenAPIType.STRING, description="`name`, `name@version` or `name@base`"),
        content: schema,
        "stream": flag,
        "store": Schema(type=OpenAPIType.BOOLEAN, description="false keeps nothing but metadata"),
        "user": text,
        "metadata": Schema(type=OpenAPIType.OBJECT, additional_properties=text),
        "stream_options": Schema(type=OpenAPIType.OBJECT, properties={"include_usage": flag}),
    }
    body = Schema(
        type=OpenAPIType.OBJECT,
        properties=dict(fields),
        required=["model", content],
        additional_properties=True,
        description="What OpenAI's API and vLLM take; fields that are not listed here pass through.",
    )
    operation.request_body = RequestBody(
        content={"application/json": OpenAPIMediaType(schema=body)}, required=True
    )
    answer = Schema(type=OpenAPIType.OBJECT, additional_properties=True)
    operation.responses = {
        "200": OpenAPIResponse(
            description="The engine's answer as it came, or its events",
            content={
                "application/json": OpenAPIMediaType(schema=answer),
                "text/event-stream": OpenAPIMediaType(schema=text),
            },
        )
    }
