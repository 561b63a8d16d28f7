"""The pages' own files, with tags by which browsers ask whether what they keep is still so."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from importlib.resources import files
from typing import NamedTuple

from litestar import Response

from server.request import GatewayRequest

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class StaticFile(NamedTuple):
    """One file as it is sent."""

    content: bytes
    kind: str
    tag: str
    """Of this content alone."""


def static_file(content: bytes, kind: str) -> StaticFile:
    """A file and its tag."""
    return StaticFile(content, kind, blake2b(content, digest_size=8).hexdigest())


STATIC = {
    file.name: static_file(file.read_bytes(), _TYPES[file.name.rpartition(".")[2]])
    for file in files("server").joinpath("pages/static").iterdir()
}


def address_of(name: str) -> str:
    """An address under which a file never changes: browsers need not ask for it again, and nothing waits for that."""
    return f"/static/{name}?v={STATIC[name].tag}"


def answer_with(request: GatewayRequest, file: StaticFile, headers: Mapping[str, str]) -> Response[bytes]:
    """The file, or 304 for who has it already."""
    tag = f'"{file.tag}"'
    kept = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    told = {**headers, "etag": tag}
    if tag in kept or "*" in kept:
        return Response(b"", status_code=304, media_type=file.kind, headers=told)
    return Response(file.content, media_type=file.kind, headers=told)
