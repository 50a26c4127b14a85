"""Delimited text to Arrow: CSV, tabs, "::" and others, every value as text. Imports no TensorFlow.

pyarrow parses. What it lets pass (a quote that swallows rows) is found by a second, strict reading, which also names
the row of what it refuses.
"""

import codecs
import csv
import io
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv

from longretriever_tf.config.formats import TableFormat

BY_EXTENSION = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|", ".txt": "", ".dat": "", ".data": ""}
"""Delimiters by a file's ending; empty: the first of `_GUESSED` that its first line holds."""

_GUESSED = ("::", "\t", "|", ";", ",")
_STAND_IN = "\x1f"
"""The unit separator: stands for a delimiter of several characters, which pyarrow cannot split by."""

_CHUNK = 1 << 20
_BLOCKS = (8 << 20, 256 << 20)
"""Bytes that are parsed at once: a row must fit in a block, and nearly all fit in the first."""
_STREAMED_BLOCK = 32 << 20
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Unreadable(Exception):
    """Why a file or a column cannot be read; callers that know the file's name raise it as a UserError.

    Args:
      problem: the end of a sentence about the file.
      column: words that follow the file's name, where the problem lies in one column.
    """

    def __init__(self, problem: str, column: str = "") -> None:
        super().__init__(problem)
        self.column = column


class TextFormat(NamedTuple):
    """How text is written.

    Attributes:
      delimiter: between values, of one or more characters; empty: by the file's ending.
      quotes: whether values may be in double quotes; never with a delimiter of several characters.
      encoding: of the text.
      column_names: of a file without a header; empty: its first row names them.
      table: which rows of a published file count, and how its columns are made; None: as they are.
      expects: the end of an error about such a file: the format, and the file that it expects.
      vectors: the one column, of text or not, that may hold lists of numbers; empty for none.
    """

    delimiter: str = ""
    quotes: bool = True
    encoding: str = "utf-8"
    column_names: tuple[str, ...] = ()
    table: TableFormat | None = None
    expects: str = ""
    vectors: str = ""


class DelimitedFile:
    """One file of delimited text."""

    def __init__(self, path: str, open_bytes: Callable[[], Any], text: TextFormat):
        """Reads the first lines.

        Args:
          path: whose ending says the delimiter, unless `text` does.
          open_bytes: opens the file, unpacked, as a binary file.
          text: how it is written.

        Raises:
          Unreadable: no text, another encoding, or no delimiter.
        """
        self._open_bytes, self._text = open_bytes, text
        try:
            "x".encode(text.encoding)
            self._decoder = codecs.lookup(text.encoding).name
        except (LookupError, UnicodeError) as error:
            raise Unreadable(
                f"--encoding={text.encoding}: no encoding of text (expected utf-8, latin-1, ...)"
            ) from error
        delimiter = text.delimiter or BY_EXTENSION.get(os.path.splitext(path)[1].lower(), "") or self._guess()
        self.delimiter = delimiter
        self._mark = delimiter if len(delimiter.encode()) == 1 else _STAND_IN
        self._has_quotes = text.quotes and self._mark == delimiter
        self.names = list(text.column_names) or self._header()

    def _guess(self) -> str:
        with self._open_lines("") as lines:
            first = next((line for line in lines if line.strip()), "")
        delimiter = next((delimiter for delimiter in _GUESSED if delimiter in first), "")
        if not delimiter:
            raise Unreadable("its first line holds none of the usual delimiters: name it, as in --delimiter=';'")
        return delimiter

    def _header(self) -> list[str]:
        with self._open_lines(self.delimiter) as lines:
            try:
                return next((row for row in self._parse(lines) if row), [])
            except csv.Error as error:
                raise Unreadable(f"its first row cannot be read: {error}") from error

    def _stream(self, delimiter: str) -> "_CleanBytes":
        replaced = delimiter.encode() if delimiter and len(delimiter.encode()) > 1 else b""
        return _CleanBytes(self._open_bytes(), self._decoder, replaced)

    def _open_lines(self, delimiter: str) -> io.TextIOWrapper:
        stream = io.BufferedReader(self._stream(delimiter), _CHUNK)
        return io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")

    def _parse(self, lines: io.TextIOWrapper) -> Iterator[list[str]]:
        limit = csv.field_size_limit(2**31 - 1)
        try:
            if self._has_quotes:
                yield from csv.reader(lines, delimiter=self._mark, strict=True)
            else:
                yield from csv.reader(lines, delimiter=self._mark, quoting=csv.QUOTE_NONE, strict=True)
        finally:
            csv.field_size_limit(limit)

    def read(self, indices: list[int]) -> pa.Table:
        """The columns at some indices of `names`, as text; empty values are null.

        Raises:
          Unreadable: rows of another length, an unclosed quote, bytes that are no text, with the row.
        """
        error: pa.ArrowInvalid | None = None
        for block in _BLOCKS:
            try:
                with self._stream(self.delimiter) as stream:
                    table = self._parse_all(stream, indices, block)
            except pa.ArrowInvalid as refusal:
                error = refusal
                continue
            self._check_quotes(stream, indices)
            return table
        return self._explain(error, indices)

    def read_pieces(self, indices: list[int], max_rows: int) -> Iterator[pa.Table]:
        """As `read`, in pieces of about `max_rows` rows, so that memory does not grow with the file."""
        with self._stream(self.delimiter) as stream:
            pending, num_rows = [], 0
            try:
                for batch in pa_csv.open_csv(stream, **self._options(indices, _STREAMED_BLOCK)):
                    pending.append(batch)
                    num_rows += batch.num_rows
                    if num_rows >= max_rows:
                        yield pa.Table.from_batches(pending)
                        pending, num_rows = [], 0
            except pa.ArrowInvalid as error:
                yield self._explain(error, indices)
                return
        self._check_quotes(stream, indices)
        if pending:
            yield pa.Table.from_batches(pending)

    def _check_quotes(self, stream: "_CleanBytes", indices: list[int]) -> None:
        fault, _ = self._find_fault(indices) if self._has_quotes and stream.has_quotes else ("", 0)
        if fault:
            raise Unreadable(fault)

    def _explain(self, error: pa.ArrowInvalid | None, indices: list[int]) -> pa.Table:
        """No rows for a header that no end of line follows; else what is wrong, in words."""
        fault, num_rows = self._find_fault(indices)
        if not (fault or num_rows):
            return pa.table({str(index): pa.array([], pa.string()) for index in indices})
        raise Unreadable(fault or " ".join(str(error).split())) from error

    def _parse_all(self, stream: "_CleanBytes", indices: list[int], block: int) -> pa.Table:
        return pa_csv.read_csv(stream, **self._options(indices, block))

    def _options(self, indices: list[int], block: int) -> dict[str, Any]:
        columns = [str(index) for index in range(len(self.names))]
        wanted = [columns[index] for index in indices]
        skipped = 0 if self._text.column_names else 1
        return {
            "read_options": pa_csv.ReadOptions(column_names=columns, skip_rows_after_names=skipped, block_size=block),
            "parse_options": pa_csv.ParseOptions(
                delimiter=self._mark,
                quote_char='"' if self._has_quotes else False,
                newlines_in_values=self._has_quotes,
            ),
            "convert_options": pa_csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.string()),
                strings_can_be_null=True,
                null_values=[""],  # "NA" and "None" may be values
            ),
        }

    def _find_fault(self, indices: list[int]) -> tuple[str, int]:
        """The first row that is not as it should be, in words (empty: all are), and its number, from 1."""
        row = 0 if self._text.column_names else -1  # the header is no row
        with self._open_lines(self.delimiter) as lines:
            try:
                for values in self._parse(lines):
                    if not values:
                        continue
                    row += 1
                    fault = self._fault_of(values, indices)
                    if fault:
                        return f"row {row} {fault}", row
            except csv.Error as error:
                return (
                    f"row {row + 1} holds a quote that is not closed, or not doubled within its value ({error}); mend "
                    "it, or read quotes as plain text by --noquotes"
                ), row + 1
        return "", row

    def _fault_of(self, values: list[str], indices: list[int]) -> str:
        if len(values) != len(self.names):
            return (
                f"has {len(values)} values instead of {len(self.names)} (delimiter {self.delimiter!r}): "
                f"{self._mark.join(values)[:60]!r}"
            )
        for index in indices:
            if _NOT_UTF8.search(values[index]):
                shown = values[index].encode("utf-8", "surrogateescape")[:40]
                return (
                    f"is not {self._decoder} text in column {self.names[index]!r}: {shown!r}; name the file's own "
                    "encoding, as in --encoding=latin-1"
                )
        if self._has_quotes and any("\n" in value for value in values):
            return self._swallowed(values)
        return ""

    def _swallowed(self, values: list[str]) -> str:
        """Whether a value of several lines holds what looks like rows: lines of as many values as a row has."""
        for index, value in enumerate(values):
            inner = value.split("\n")[1:]
            if not inner:
                continue
            counts = [line.count(self.delimiter) for line in inner]
            are_rows = all(count == len(values) - 1 for count in counts[:-1]) and counts[-1] == index
            if are_rows and (len(inner) > 1 or index > 1):
                return (
                    f"has a quoted value over {len(inner) + 1} lines that look like rows of their own: is a quote not "
                    "closed? Mend it, or read quotes as plain text by --noquotes"
                )
        return ""


class _CleanBytes(io.RawIOBase):
    """UTF-8 of a text file: without a byte order mark, each delimiter of several characters as one byte."""

    def __init__(self, file: Any, encoding: str, delimiter: bytes):
        super().__init__()
        self._file, self._delimiter = file, delimiter
        self._decoder = None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)()
        self._ready, self._held = b"", b""
        self._is_first, self._is_last = True, False
        self._lines = 1
        self.has_quotes = False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        taken = self.read(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, fewer only at the end: pyarrow treats each result as a block."""
        parts, length = [self._ready], len(self._ready)
        while not self._is_last and (size < 0 or length < size):
            parts.append(self._next())
            length += len(parts[-1])
        whole = b"".join(parts)
        size = length if size < 0 else size
        self._ready = whole[size:]
        return whole[:size]

    def _next(self) -> bytes:
        data = self._file.read(_CHUNK)
        self._is_last = not data
        data = self._decode(data)
        if b"\0" in data:
            line = self._lines + data[: data.index(b"\0")].count(b"\n")
            raise Unreadable(f"line {line} holds a zero byte: this is no text, or not {self._name()}")
        self._lines += data.count(b"\n")
        self.has_quotes |= b'"' in data
        return self._replace(data) if self._delimiter else data

    def _name(self) -> str:
        return "utf-8" if self._decoder is None else "in the --encoding that was named"

    def _decode(self, data: bytes) -> bytes:
        if self._decoder is None:
            if self._is_first and data.startswith(_BYTE_ORDER_MARKS):
                raise Unreadable("it begins with a byte order mark of UTF-16: add --encoding=utf-16")
            data = data.removeprefix(codecs.BOM_UTF8) if self._is_first else data
        else:
            try:
                text = self._decoder.decode(data, final=self._is_last)
            except UnicodeError as error:
                raise Unreadable(
                    f"after line {self._lines} it is not in the encoding that was named: {error}"
                ) from error
            data = (text.removeprefix("\ufeff") if self._is_first else text).encode("utf-8")
        self._is_first = False
        return data

    def _replace(self, data: bytes) -> bytes:
        mark, wanted = _STAND_IN.encode(), self._delimiter
        if mark in data:
            raise Unreadable(f"line {self._lines} holds the control character 0x1f, which no table should")
        whole = (self._held + data).replace(wanted, mark)
        length = (
            0 if self._is_last else next((n for n in range(len(wanted) - 1, 0, -1) if whole.endswith(wanted[:n])), 0)
        )
        self._held = whole[len(whole) - length :] if length else b""
        return whole[: len(whole) - length]
