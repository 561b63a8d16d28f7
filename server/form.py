"""What comes as a file, in a multipart form or as a body: it goes to the disk piece by piece and is never held whole."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from typing import NamedTuple

from litestar.exceptions import InternalServerException
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from feedback.errors import BadFieldError, BadInputError
from feedback.imports.uploads import Upload
from server.request import GatewayRequest

_PIECE = 1 << 20
_LONGEST = 4096
_MOST_FIELDS = 32
_CUT_SHORT = "the file ended before it was complete; send it again"


class Form(NamedTuple):
    """What came beside the file, and what the file is called."""

    fields: dict[str, str]
    filename: str | None


async def receive_form(request: GatewayRequest, upload: Upload, file_field: str, known: Set[str]) -> Form:
    """Take a form in; the file's bytes go to `upload`, which is ended.

    Raises `BadFieldError` for a field that is not `known`, comes twice or is missing, `BadInputError` for what is no whole form,
    and what `Upload.write` raises.
    """
    reading = _Reading(upload, file_field, known)
    await _read(request, reading)
    await asyncio.to_thread(upload.end)
    if file_field not in reading.seen:
        raise BadFieldError(file_field, "is required; send the file itself, in the form")
    return Form(reading.texts(), reading.filename)


async def receive_fields(request: GatewayRequest, known: Set[str]) -> dict[str, str]:
    """Take a form in that has no file, only fields. Raises what `receive_form` does for those."""
    reading = _Reading(None, None, known)
    await _read(request, reading)
    return reading.texts()


async def receive_body(request: GatewayRequest, upload: Upload) -> None:
    """Take a body in that is the file itself; `upload` is ended.

    Raises `BadInputError` when it breaks off, and what `Upload.write` raises.
    """
    waiting: list[bytes] = []
    size = 0
    try:
        async for piece in request.stream():
            waiting.append(piece)
            size += len(piece)
            if size >= _PIECE:
                await asyncio.to_thread(upload.write, b"".join(waiting))
                waiting, size = [], 0
    except InternalServerException:  # Litestar's word for a client that went away
        raise BadInputError(_CUT_SHORT) from None
    await asyncio.to_thread(upload.write, b"".join(waiting))
    await asyncio.to_thread(upload.end)


async def _read(request: GatewayRequest, reading: _Reading) -> None:
    try:
        with _parser(request) as parser:
            async for chunk in request.stream():
                for event in parser.parse(chunk):
                    reading.take(event)
                if reading.size >= _PIECE:
                    await asyncio.to_thread(reading.flush)
    except MultipartError as error:
        raise BadInputError(f"the form is broken or cut short ({error}); send it again") from None
    except InternalServerException:  # Litestar's word for a client that went away
        raise BadInputError(_CUT_SHORT) from None
    await asyncio.to_thread(reading.flush)


class _Reading:
    """A form as its pieces come; without an upload it has no file."""

    def __init__(self, upload: Upload | None, file_field: str | None, known: Set[str]) -> None:
        self.fields: dict[str, bytes] = {}
        self.filename: str | None = None
        self.seen: set[str] = set()
        self.size = 0
        self._upload, self._file_field, self._known = upload, file_field, known
        self._waiting: list[bytes] = []
        self._name = ""

    def take(self, event: MultipartSegment | bytearray | None) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            return
        elif self._name == self._file_field:
            self._waiting.append(bytes(event))
            self.size += len(event)
        else:
            self.fields[self._name] += event
            if len(self.fields[self._name]) > _LONGEST:
                raise BadFieldError(self._name, f"is longer than {_LONGEST} bytes")

    def flush(self) -> None:
        """Write what waits."""
        pieces, self._waiting, self.size = self._waiting, [], 0
        if self._upload is not None:
            self._upload.write(b"".join(pieces))

    def texts(self) -> dict[str, str]:
        """The fields beside the file. Raises `BadFieldError` for one that is no UTF-8."""
        return {name: _text(name, value) for name, value in self.fields.items()}

    def _begin(self, segment: MultipartSegment) -> None:
        self._name = name = segment.name
        if name != self._file_field and name not in self._known:
            raise BadFieldError(name[:60] or "form", "is no parameter of this")
        if name in self.seen:
            raise BadFieldError(name, "comes twice; send it once")
        self.seen.add(name)
        if name == self._file_field:
            self.filename = segment.filename
        else:
            self.fields[name] = b""


def _parser(request: GatewayRequest) -> PushMultipartParser:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise BadInputError("the body is no form; send the file as multipart/form-data")
    return PushMultipartParser(options["boundary"], max_segment_count=_MOST_FIELDS)


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadFieldError(name, "is not UTF-8") from None
