"""Forms with a file (RFC 7578, `multipart/form-data`): read within bounds, and written for a provider.

Everything is held in memory: a form is at most as large as the body that it came in, and an attempt that fails is made
again from it. What a form may contain is its endpoint's business.
"""

import dataclasses
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 64
MAX_FIELD_BYTES = 2 << 20
"""A sample of a known speaker's voice is a field, as a data URL."""


class FormProblem(ValueError):
    """A body that is no such form, or one beyond the bounds. Its text is for the client."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FormFile:
    """A file of a form, under the name of its field."""

    field: str
    name: str
    content_type: str
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The fields and files of a form, in their order."""

    fields: tuple[tuple[str, str], ...]
    files: tuple[FormFile, ...]


def read_form(body: bytes, content_type: str) -> Form:
    """Reads a whole body. Raises FormProblem."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind.lower() != b"multipart/form-data" or not boundary:
        raise FormProblem("The body must be multipart/form-data with a boundary.")
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks(), max_size=max(1, len(body)))
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise FormProblem("The body is no valid multipart/form-data.") from error
    if not reader.is_whole:
        raise FormProblem("The body ends before its last boundary.")
    return Form(fields=tuple(reader.fields), files=tuple(reader.files))


def write_form(fields: Sequence[tuple[str, str]], files: Sequence[FormFile]) -> tuple[bytes, str]:
    """The body of a form, and its content type."""
    boundary = f"tollbridge-{secrets.token_hex(16)}"
    parts: list[bytes] = []
    for name, value in fields:
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="{_quoted(name)}"\r\n\r\n'
        parts += [head.encode(), value.encode(), b"\r\n"]
    for file in files:
        head = (
            f'--{boundary}\r\ncontent-disposition: form-data; name="{_quoted(file.field)}"; '
            f'filename="{_quoted(file.name)}"\r\ncontent-type: {_line(file.content_type)}\r\n\r\n'
        )
        parts += [head.encode(), file.data, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


def _quoted(text: str) -> str:
    """As browsers write a name: what would end it is escaped."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _line(text: str) -> str:
    return "".join(each for each in text if each.isprintable()) or "application/octet-stream"


class _Reader:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.files: list[FormFile] = []
        self.is_whole = False
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._data: list[bytes] = []
        self._size = 0
        self._disposition: dict[bytes, bytes] = {}

    def callbacks(self) -> "MultipartCallbacks":
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._take,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.fields) + len(self.files) >= MAX_PARTS:
            raise FormProblem(f"A form may have {MAX_PARTS} parts at most.")
        self._headers, self._data, self._size = {}, [], 0
        self._name = self._value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_end(self) -> None:
        kind, self._disposition = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind.lower() != b"form-data" or not self._disposition.get(b"name"):
            raise FormProblem("Each part of a form must have a name.")

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._size > MAX_FIELD_BYTES and b"filename" not in self._disposition:
            name = _text(self._disposition[b"name"])
            raise FormProblem(f"The field {name[:100]!r} is larger than {MAX_FIELD_BYTES >> 20} MiB.")
        self._data.append(data[start:end])

    def _end(self) -> None:
        name, content = _text(self._disposition[b"name"]), b"".join(self._data)
        if b"filename" not in self._disposition:
            self.fields.append((name, _text(content)))
            return
        self.files.append(
            FormFile(
                field=name,
                name=_text(self._disposition[b"filename"]),
                content_type=self._headers.get(b"content-type", b"application/octet-stream").decode("latin-1"),
                data=content,
            )
        )

    def _finish(self) -> None:
        self.is_whole = True


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormProblem("The fields of a form must be UTF-8.") from error
