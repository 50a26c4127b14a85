"""The named columns of the files of a table, as one Arrow table of plain types. Imports no TensorFlow."""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from longretriever_tf.common.errors import UserError
from longretriever_tf.datasets.event_log.delimited import BY_EXTENSION, DelimitedFile, TextFormat, Unreadable
from longretriever_tf.datasets.event_log.locate import DataFile, Located, locate, one_line
from longretriever_tf.datasets.event_log.plain import join_parts, plain_column

_PARQUET, _ARROW, _JSON = (".parquet", ".pq"), (".arrow", ".feather"), (".jsonl", ".ndjson", ".json")
_PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_FIRST_BYTES = {
    b"PAR1": ".parquet",
    b"ARROW1": ".arrow",
    b"\x1f\x8b": ".gz",
    b"BZh": ".bz2",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"\x04\x22\x4d\x18": ".lz4",
}
_KNOWN = "expected .parquet, .csv, .tsv, .txt, .dat, .jsonl, .feather (text also as .gz, .bz2, .zst, .lz4)"


class Parts(NamedTuple):
    """A table read from one file or many.

    Attributes:
      data: the columns by their names.
      files: paths, below the folder that holds them all.
      stop: rows of `data` before the end of each file, [files] int64.
    """

    data: pa.Table
    files: tuple[str, ...]
    stop: np.ndarray

    def row_words(self, row: int) -> str:
        """How an error names a row of `data`: its number from 1, and its file where there are several."""
        file = int(np.searchsorted(self.stop, row, side="right"))
        before = int(self.stop[file - 1]) if file else 0
        of = f" of {self.files[file]}" if len(self.files) > 1 else ""
        return f"row {row - before + 1}{of}"


def read_table(source: str, path: str, columns: dict[str, str], text: TextFormat) -> Parts:
    """Reads some columns of all files of a table.

    Args:
      source: flag and path, for errors.
      path: of a file or a directory, a glob, or a URL.
      columns: column name -> the flag that named it.
      text: how its text is written, if it is text.

    Raises:
      UserError: no such file, no rows, a column that is missing or of a type that is not supported, or a file that
        cannot be read; names the file, the column and the row.
    """
    located = locate(source, path)
    files = [file for file in located.files if located.is_one or file.size or not _text_ending(file.path, text)]
    if not files:
        raise UserError(f"{source}: all its files are empty")
    tables = []
    for file in files:
        where = source if located.is_one else f"{source} ({file.path})"
        tables.append(_read_file(where, located, file, columns, text))
    folder = os.path.commonpath([os.path.dirname(file.path) for file in files]) or "."
    names = [os.path.relpath(file.path, folder) for file in files]
    data = pa.table({name: _join(source, name, names, [table.column(name) for table in tables]) for name in columns})
    if not data.num_rows:
        raise UserError(f"{source}: no rows")
    return Parts(data, tuple(names), np.cumsum([table.num_rows for table in tables]))


def _join(source: str, name: str, files: Sequence[str], parts: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    try:
        return join_parts(parts, files)
    except Unreadable as error:
        raise UserError(f"{source}, column {name!r}: {error}") from error


def _read_file(where: str, located: Located, file: DataFile, columns: dict[str, str], text: TextFormat) -> pa.Table:
    """One file's columns, plain, those of its folders among them."""
    if not file.size:
        raise UserError(f"{where}: the file is empty")
    try:
        opened = _open(located, file, text)
        present = [name for name in columns if name in file.partition and name not in _plain_names(opened.names)]
        indices = _find_columns({n: flag for n, flag in columns.items() if n not in present}, opened.names)
        table = opened.read(list(indices.values()))
    except Unreadable as error:
        raise UserError(f"{where}: {error}") from error
    except UserError:
        raise
    except (pa.ArrowException, ValueError, EOFError, OSError) as error:
        raise UserError(f"{where}: cannot be read: {one_line(error)}") from error
    except Exception as error:  # a remote store's own
        if located.is_local:
            raise
        raise UserError(f"{where}: cannot be read: {one_line(error)}") from error
    plain = {}
    for i, name in enumerate(indices):
        try:
            plain[name] = plain_column(table.column(i))
        except Unreadable as error:
            raise UserError(f"{where}, column {name!r}: {error}") from error
    for name in present:
        value = pa.scalar(file.partition[name], pa.string())
        plain[name] = pa.chunked_array([pa.repeat(value, table.num_rows)])
    return pa.table({name: plain[name] for name in columns})


def _plain_names(names: Sequence[str]) -> list[str]:
    return [name.strip("\ufeff \t\r\n") for name in names]


def _find_columns(columns: dict[str, str], names: Sequence[str]) -> dict[str, int]:
    """The index of each column; spaces around a name in the file, and a byte order mark, do not count.

    Raises:
      Unreadable: a column that is missing, or is there twice.
    """
    plain, indices, missing = _plain_names(names), {}, []
    for name, flag in columns.items():
        matches = [i for i, given in enumerate(names) if given == name]
        matches = matches or [i for i, given in enumerate(plain) if given == name]
        if len(matches) > 1:
            raise Unreadable(f"column {name!r} ({flag}) is there {len(matches)} times; rename or drop all but one")
        if matches:
            indices[name] = matches[0]
        else:
            missing.append(f"{name!r} ({flag})")
    if missing:
        present = ", ".join(plain[:40]) + (", ..." if len(plain) > 40 else "")
        raise Unreadable(f"no column {', '.join(missing)}; columns present: {present}{_hint(plain)}")
    return indices


def _hint(names: Sequence[str]) -> str:
    if len(names) != 1:
        return ""
    mark = next((mark for mark in ("::", ";", "\t", "|", ",") if mark in names[0]), "")
    return f" (one column: is the delimiter {mark!r}? Then add --delimiter={mark!r})" if mark else ""


class _Opened(NamedTuple):
    """A file whose column names are known: `read` returns those at some indices."""

    names: list[str]
    read: Any


def _open(located: Located, file: DataFile, text: TextFormat) -> _Opened:
    ending, packing = _endings(file.path)
    opener = functools.partial(located.filesystem.open, file.path, "rb")
    if ending in (*_PARQUET, *_ARROW, *_JSON) and text.column_names:
        raise Unreadable(f"a column-names flag ({','.join(text.column_names)}) is for text without a header")
    if not packing:  # a file may be packed, or Parquet, whatever its name says
        actual = _by_content(opener)
        ending, packing = (ending, actual) if actual in _PACKED else (actual or ending, "")
    if ending in _PARQUET:
        return _open_parquet(pq.ParquetFile(file.path if located.is_local else opener()))
    if ending in _ARROW:
        return _of_table(_read_arrow(opener))
    unpacked = functools.partial(_unpack, opener, packing)
    if ending in _JSON:
        return _of_table(pa_json.read_json(unpacked()))
    if ending not in BY_EXTENSION and not text.delimiter:
        raise Unreadable(
            f"{_KNOWN}; for text under another ending name its --delimiter, or name the data files by a glob"
        )
    delimited = DelimitedFile(f"text{ending}", unpacked, text)
    if not delimited.names:
        raise Unreadable("the file is empty")
    return _Opened(delimited.names, delimited.read)


def _endings(path: str) -> tuple[str, str]:
    """The ending of the format, and that of the compression around it, both in lower case."""
    stem, last = os.path.splitext(os.path.basename(path))
    packing = last.lower() if last.lower() in _PACKED else ""
    return (os.path.splitext(stem)[1] if packing else last).lower(), packing


def _text_ending(path: str, text: TextFormat) -> bool:
    ending, _ = _endings(path)
    return ending in BY_EXTENSION or (bool(text.delimiter) and ending not in (*_PARQUET, *_ARROW, *_JSON))


def _by_content(opener: Any) -> str:
    """The ending that a file's first bytes speak for; empty for text."""
    with opener() as stream:
        start = stream.read(6)
    return next((ending for first, ending in _FIRST_BYTES.items() if start.startswith(first)), "")


def _unpack(opener: Any, packing: str) -> Any:
    stream = opener()
    return pa.CompressedInputStream(pa.PythonFile(stream, "r"), _PACKED[packing]) if packing else stream


def _open_parquet(file: pq.ParquetFile) -> _Opened:
    schema = file.schema_arrow

    def read(indices: list[int]) -> pa.Table:
        for i in indices:  # before bytes are read for nothing
            field = schema.field(i)
            try:
                plain_column(pa.chunked_array([], field.type))
            except Unreadable as error:
                raise Unreadable(f"column {field.name!r}: {error}") from error
        data = file.read(columns=[schema.names[i] for i in indices])
        return data.select([data.schema.get_field_index(schema.names[i]) for i in indices])

    return _Opened(list(schema.names), read)


def _read_arrow(opener: Any) -> pa.Table:
    """A Feather or Arrow file, or an Arrow stream; checked whole, since Arrow trusts what these hold."""
    try:
        table = pa.ipc.open_file(pa.PythonFile(opener(), "r")).read_all()
    except pa.ArrowInvalid:
        table = pa.ipc.open_stream(pa.PythonFile(opener(), "r")).read_all()
    table.validate(full=True)
    return table


def _of_table(table: pa.Table) -> _Opened:
    return _Opened(list(table.column_names), table.select)
