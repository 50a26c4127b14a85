"""The named columns of the files of a table, as one Arrow table of plain types. Imports no TensorFlow."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from longretriever_tf.common.errors import UserError
from longretriever_tf.datasets.event_log import json_lines, made_columns
from longretriever_tf.datasets.event_log.column_names import find_columns, plain_names
from longretriever_tf.datasets.event_log.delimited import BY_EXTENSION, DelimitedFile, TextFormat, Unreadable
from longretriever_tf.datasets.event_log.locate import DataFile, Located, locate, one_line
from longretriever_tf.datasets.event_log.made_columns import (
    latest_rows,
    make_table,
    num_left_out,
    rows_in_files,
    source_columns,
)
from longretriever_tf.datasets.event_log.plain import join_parts, plain_column, vectors_as_text

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
      first_row: rows of the first file that lie before `data`.
      is_one: whether the table has one file, so that errors need not name it.
      row_in_file: of each row of `data` its number in its file, [N] int64; None: no row is left out.
      num_left_out: rows that a published format does not count.
      expects: what an error adds: the file that --format expects; empty without a format.
    """

    data: pa.Table
    files: tuple[str, ...]
    stop: np.ndarray
    first_row: int
    is_one: bool
    row_in_file: np.ndarray | None = None
    num_left_out: int = 0
    expects: str = ""

    def row_words(self, row: int) -> str:
        """How an error names a row of `data`: its number from 1, and its file where there are several."""
        file = int(np.searchsorted(self.stop, row, side="right"))
        before = int(self.stop[file - 1]) if file else -self.first_row
        of = "" if self.is_one else f" of {self.files[file]}"
        number = row - before if self.row_in_file is None else int(self.row_in_file[row])
        return f"row {number + 1}{of}"


class Portion(NamedTuple):
    """What one process reads at a time: a file, or some row groups of a Parquet file.

    Attributes:
      file: the file.
      row_groups: of the Parquet file; empty: the whole file.
      first_row: rows of the file before it.
    """

    file: DataFile
    row_groups: tuple[int, ...]
    first_row: int


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
    files = _files_with_rows(source, located, text)
    tables = []
    for file in files:
        (table,) = _read_file(source, located, Portion(file, (), 0), columns, text)
        tables.append(table)
    names = _names_below(files)
    every = tables[0].column_names
    data = pa.table({name: _join(source, name, names, [table.column(name) for table in tables]) for name in every})
    stop = np.cumsum([table.num_rows for table in tables])
    if text.table and text.table.latest:
        latest = latest_rows(data.column(text.table.latest[0]), data.column(made_columns.TIME))
        data, stop = data.take(latest), np.searchsorted(latest, stop)
    if not data.num_rows:
        raise UserError(f"{source}: no rows{text.expects}")
    left_out = sum(map(num_left_out, tables))
    kept, rows = data.select(list(columns)), rows_in_files(data)
    return Parts(kept, tuple(names), stop, 0, len(names) == 1, rows, left_out, text.expects)


def read_column_names(source: str, path: str, text: TextFormat) -> list[str]:
    """The column names of a table: those of its first file.

    Raises:
      UserError: as `read_table` for files that are missing, empty or cannot be read.
    """
    located = locate(source, path)
    file = _files_with_rows(source, located, text)[0]
    with _explain(source, located, file):
        return plain_names(_open(located, file, text).names)


def list_portions(source: str, path: str, text: TextFormat, max_rows: int) -> tuple[Located, list[Portion]]:
    """The files of a table, large Parquet files in portions of about `max_rows` rows.

    Args:
      source: flag and path, for errors.
      path: as `read_table` takes it.
      text: how its text is written, if it is text.
      max_rows: a portion of a Parquet file has at most so many, or is one row group.

    Raises:
      UserError: as `read_table` for files that are missing, empty or no Parquet.
    """
    located = locate(source, path)
    portions = []
    for file in _files_with_rows(source, located, text):
        with _explain(source, located, file):
            sizes = _row_group_sizes(located, file)
        group: list[int] = []
        rows, first = 0, 0
        for number, size in enumerate(sizes):
            if group and rows + size > max_rows:
                portions.append(Portion(file, tuple(group), first))
                group, rows, first = [], 0, first + rows
            group.append(number)
            rows += size
        portions.append(Portion(file, tuple(group), first))
    return located, portions


def read_portion(
    source: str, located: Located, portion: Portion, columns: dict[str, str], text: TextFormat, max_rows: int
) -> Iterator[Parts]:
    """Reads some columns of a portion: delimited text in pieces of about `max_rows` rows, other formats in one.

    Args:
      source: flag and path, for errors.
      located: the table's files.
      portion: one of `list_portions`.
      columns: column name -> the flag that named it.
      text: how its text is written, if it is text.
      max_rows: of a piece.

    Raises:
      UserError: as `read_table`.
    """
    (name,), first = _names_below([portion.file]), portion.first_row
    for data in _read_file(source, located, portion, columns, text, max_rows):
        kept, rows, left_out = data.select(list(columns)), rows_in_files(data), num_left_out(data)
        stop = np.array([data.num_rows])
        yield Parts(kept, (name,), stop, first, located.is_one, rows, left_out, text.expects)
        first += data.num_rows


def _files_with_rows(source: str, located: Located, text: TextFormat) -> list[DataFile]:
    files = [file for file in located.files if located.is_one or file.size or not _text_ending(file.path, text)]
    if not files:
        raise UserError(f"{source}: all its files are empty")
    return files


def _names_below(files: Sequence[DataFile]) -> list[str]:
    folder = os.path.commonpath([os.path.dirname(file.path) for file in files]) or "."
    return [os.path.relpath(file.path, folder) for file in files]


def _join(source: str, name: str, files: Sequence[str], parts: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    try:
        return join_parts(parts, files)
    except Unreadable as error:
        raise UserError(f"{source}, column {name!r}: {error}") from error


@contextlib.contextmanager
def _explain(source: str, located: Located, file: DataFile, expects: str = "") -> Iterator[None]:
    """Says which file cannot be read, and why."""
    where = source if located.is_one else f"{source} ({file.path})"
    if not file.size:
        raise UserError(f"{where}: the file is empty")
    try:
        yield
    except Unreadable as error:
        raise UserError(f"{where}{error.column}: {error}{expects}") from error
    except UserError:
        raise
    except (pa.ArrowException, ValueError, EOFError, OSError) as error:
        raise UserError(f"{where}: cannot be read: {one_line(error)}") from error
    except Exception as error:  # a remote store's own
        if located.is_local:
            raise
        raise UserError(f"{where}: cannot be read: {one_line(error)}") from error


def _read_file(
    source: str, located: Located, portion: Portion, columns: dict[str, str], text: TextFormat, max_rows: int = 0
) -> Iterator[pa.Table]:
    """One file's columns, plain, those of its folders among them; text in pieces of `max_rows`, if that is above 0."""
    file = portion.file
    with _explain(source, located, file, text.expects):
        opened = _open(located, file, text, portion.row_groups)
        wanted_columns, columns = columns, source_columns(columns, text.table)
        present = [name for name in columns if name in file.partition and name not in plain_names(opened.names)]
        indices = find_columns({n: flag for n, flag in columns.items() if n not in present}, opened.names)
        wanted = list(indices.values())
        tables: Iterable[pa.Table] = (
            opened.read_pieces(wanted, max_rows) if max_rows and opened.read_pieces else [opened.read(wanted)]
        )
        first = 0
        for table in tables:
            read = {name: table.column(i) for i, name in enumerate(indices)}
            if text.table:
                made = make_table(read, wanted_columns, text.table, first)
                first += table.num_rows
                kept = pa.table({name: _plain(name, column, text) for name, column in made.items()})
                yield kept.replace_schema_metadata({made_columns.LEFT_OUT: str(table.num_rows - kept.num_rows)})
                continue
            plain = {name: _plain(name, column, text) for name, column in read.items()}
            for name in present:
                value = pa.scalar(file.partition[name], pa.string())
                plain[name] = pa.chunked_array([pa.repeat(value, table.num_rows)])
            yield pa.table({name: plain[name] for name in columns})


def _plain(name: str, column: pa.ChunkedArray, text: TextFormat) -> pa.ChunkedArray:
    try:
        return plain_column(vectors_as_text(column) if name == text.vectors else column)
    except Unreadable as error:
        raise Unreadable(str(error), f", column {name!r}") from error


class _Opened(NamedTuple):
    """A file whose column names are known: `read` returns those at some indices, `read_pieces` a piece at a time."""

    names: list[str]
    read: Callable[[list[int]], pa.Table]
    read_pieces: Callable[[list[int], int], Iterator[pa.Table]] | None = None


def _opener(located: Located, file: DataFile) -> Any:
    return functools.partial(located.filesystem.open, file.path, "rb")


def _format(located: Located, file: DataFile) -> tuple[str, str]:
    """The ending of the format and that of the compression around it, whatever the file's name says."""
    ending, packing = _endings(file.path)
    if not packing:  # a file may be packed, or Parquet, whatever its name says
        actual = _by_content(_opener(located, file))
        ending, packing = (ending, actual) if actual in _PACKED else (actual or ending, "")
    return ending, packing


def _row_group_sizes(located: Located, file: DataFile) -> list[int]:
    """Rows of each row group of a Parquet file; empty for other files."""
    if _format(located, file)[0] not in _PARQUET:
        return []
    with _parquet_file(located, file) as opened:
        return [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]


def _parquet_file(located: Located, file: DataFile) -> pq.ParquetFile:
    return pq.ParquetFile(file.path if located.is_local else _opener(located, file)())


def _open(located: Located, file: DataFile, text: TextFormat, row_groups: tuple[int, ...] = ()) -> _Opened:
    ending, packing = _format(located, file)
    opener = _opener(located, file)
    if ending in (*_PARQUET, *_ARROW, *_JSON) and text.column_names:
        raise Unreadable(f"a column-names flag ({','.join(text.column_names)}) is for text without a header")
    if ending in _PARQUET:
        return _open_parquet(_parquet_file(located, file), row_groups, text.vectors)
    if ending in _ARROW:
        return _of_table(_read_arrow(opener))
    unpacked = functools.partial(_unpack, opener, packing)
    if ending in _JSON and text.table:
        return _Opened(*json_lines.open_json_lines(unpacked))
    if ending in _JSON:
        return _of_table(pa_json.read_json(unpacked()))
    if ending not in BY_EXTENSION and not text.delimiter:
        raise Unreadable(
            f"{_KNOWN}; for text under another ending name its --delimiter, or name the data files by a glob"
        )
    delimited = DelimitedFile(f"text{ending}", unpacked, text)
    if not delimited.names:
        raise Unreadable("the file is empty")
    return _Opened(delimited.names, delimited.read, delimited.read_pieces)


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


def _open_parquet(file: pq.ParquetFile, row_groups: tuple[int, ...] = (), vectors: str = "") -> _Opened:
    schema = file.schema_arrow

    def read(indices: list[int]) -> pa.Table:
        for i in indices:  # before bytes are read for nothing
            field = schema.field(i)
            try:
                empty = pa.chunked_array([], field.type)
                plain_column(vectors_as_text(empty) if field.name.strip() == vectors else empty)
            except Unreadable as error:
                raise Unreadable(f"column {field.name!r}: {error}") from error
        names = [schema.names[i] for i in indices]
        data = file.read_row_groups(list(row_groups), names) if row_groups else file.read(columns=names)
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
