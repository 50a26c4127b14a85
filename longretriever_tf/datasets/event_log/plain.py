"""Arrow columns of any type made plain: numbers, text, bool or times; the rest is refused by name.

Imports no TensorFlow.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from longretriever_tf.datasets.event_log.delimited import Unreadable

_NESTED = "a column needs one plain value per row; write one row per element, or a column of text"


def is_text(kind: pa.DataType) -> bool:
    """Whether the type is text of any width."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether the type is an integer, a float or a decimal."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_time(kind: pa.DataType) -> bool:
    """Whether the type names a time: a timestamp or a date."""
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as plain values, NaN and empty text as null.

    Raises:
      Unreadable: lists, structs, maps, bytes, lengths of time.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        decoded = [chunk.dictionary_decode() for chunk in column.chunks]
        return plain_column(pa.chunked_array(decoded, kind.value_type))
    if pa.types.is_run_end_encoded(kind):
        decoded = [pc.run_end_decode(chunk) for chunk in column.chunks]
        return plain_column(pa.chunked_array(decoded, kind.value_type))
    if isinstance(kind, pa.BaseExtensionType):
        return _of_extension(column)
    if pa.types.is_string_view(kind):
        column = column.cast(pa.string())
    if is_text(column.type):
        _check_text(column)
        return pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    if pa.types.is_floating(kind):
        wide = column.cast(pa.float32()) if pa.types.is_float16(kind) else column
        return pc.if_else(pc.is_nan(wide), pa.scalar(None, wide.type), wide)
    if is_number(kind) or is_time(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return column
    raise Unreadable(f"its values are of type {kind}: {_why_not(kind)}")


def vectors_as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of numbers as text, "[0.1, 2]", which any format could have held; other columns as they are."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):  # a tensor of fixed shape
        kind = kind.storage_type
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (is_list and is_number(kind.value_type)):
        return column
    texts = [None if value is None else f"[{', '.join(map(str, value))}]" for value in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _check_text(column: pa.ChunkedArray) -> None:
    """Refuses what Parquet lets pass as text: bytes that are none, and zero bytes, which end a text in other tools."""
    start = 0
    for chunk in column.chunks:
        try:
            chunk.validate(full=True)
        except pa.ArrowInvalid as error:
            raise Unreadable("holds bytes that are not UTF-8 text; write it as text") from error
        index = pc.index(pc.match_substring(chunk, "\0"), True).as_py()
        if index >= 0:
            raise Unreadable(f"{chunk[index].as_py()[:40]!r} in row {start + index + 1} holds a zero byte")
        start += len(chunk)


def _of_extension(column: pa.ChunkedArray) -> pa.ChunkedArray:
    storage = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if column.type.extension_name != "arrow.uuid":
        return plain_column(storage)
    texts = [None if value is None else str(value) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _why_not(kind: pa.DataType) -> str:
    if pa.types.is_nested(kind):
        return _NESTED
    if pa.types.is_time(kind):
        return "a time of day without its date; write a timestamp"
    if pa.types.is_duration(kind):
        return "a length of time, no time and no category; write a timestamp or a number"
    if "binary" in str(kind):
        return "bytes, not text; write them as text (ids as hexadecimal or UUID text)"
    return "no number, no text and no time; write it as text"


def join_parts(parts: list[pa.ChunkedArray], files: Sequence[str]) -> pa.ChunkedArray:
    """The same column of several files as one.

    Numbers of several widths become the one that holds them all; a part without any value fits everywhere.

    Args:
      parts: plain columns.
      files: their names, for the error.

    Raises:
      Unreadable: one file holds text where another holds numbers, and the like.
    """
    if len({part.type for part in parts}) == 1:
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)
    filled = [i for i, part in enumerate(parts) if part.null_count < len(part)]
    require_one_family([(files[i], parts[i].type) for i in filled])
    for kind in _common_types([parts[number].type for number in filled]):
        try:
            cast = [
                parts[n].cast(kind) if n in set(filled) else pa.nulls(len(parts[n]), kind) for n in range(len(parts))
            ]
        except pa.ArrowInvalid:
            continue
        chunks = [chunk for part in cast for chunk in (part.chunks if isinstance(part, pa.ChunkedArray) else [part])]
        return pa.chunked_array(chunks, kind)
    raise Unreadable(
        f"its numbers in {files[filled[0]]} and other files fit no common type; write all files with one type"
    )


def require_one_family(columns: Sequence[tuple[str, pa.DataType]]) -> None:
    """Refuses a column that is text in one file and numbers in another, and the like.

    Args:
      columns: file and type of each part that has a value.

    Raises:
      Unreadable: names two files and their types.
    """
    for file, kind in columns[1:]:
        first_file, first = columns[0]
        if _family(kind) != _family(first):
            raise Unreadable(f"is {first} in {first_file} and {kind} in {file}; write all files with one type")


def _family(kind: pa.DataType) -> str:
    if is_text(kind):
        return "text"
    return "number" if is_number(kind) else "time" if is_time(kind) else str(kind)


def _common_types(kinds: list[pa.DataType]) -> list[pa.DataType]:
    """Types that can hold all of one family, the most exact first."""
    if not kinds or len(set(kinds)) == 1:
        return kinds[:1] or [pa.string()]
    family = _family(kinds[0])
    if family == "text":
        return [pa.large_string()]
    if family == "number":
        return [pa.int64(), pa.float64()]
    return [pa.timestamp("ns"), pa.timestamp("us")]
