"""JSON lines of which some columns are wanted: the others may hold anything. Imports no TensorFlow."""

import io
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.json as pa_json

from longretriever_tf.datasets.event_log.delimited import Unreadable

_SAMPLE = 1000
"""Lines that say which columns there are, and of what types."""
_BLOCK = 32 << 20


class JsonLines(NamedTuple):
    """A file whose column names are known: `read` returns those at some indices, `read_pieces` a piece at a time."""

    names: list[str]
    read: Callable[[list[int]], pa.Table]
    read_pieces: Callable[[list[int], int], Iterator[pa.Table]]


def open_json_lines(open_bytes: Callable[[], Any]) -> JsonLines:
    """Reads the first lines.

    Args:
      open_bytes: opens the file, unpacked, as a binary file.

    Raises:
      Unreadable: a line that is no JSON object.
    """
    sample = _first_lines(open_bytes)
    names = list(dict.fromkeys(name for line in sample for name in line))

    def read_pieces(indices: list[int], max_rows: int) -> Iterator[pa.Table]:
        wanted = [names[i] for i in indices]
        kinds = pa.schema([(name, _type(name, [line.get(name) for line in sample])) for name in wanted])
        options = pa_json.ParseOptions(explicit_schema=kinds, unexpected_field_behavior="ignore")
        pending, num_rows = [], 0
        with pa_json.open_json(open_bytes(), pa_json.ReadOptions(block_size=_BLOCK), options) as reader:
            for batch in reader:
                pending.append(batch.select(wanted))
                num_rows += batch.num_rows
                if max_rows and num_rows >= max_rows:
                    yield pa.Table.from_batches(pending)
                    pending, num_rows = [], 0
        if pending:
            yield pa.Table.from_batches(pending)

    return JsonLines(names, lambda indices: pa.concat_tables(read_pieces(indices, 0)), read_pieces)


def _first_lines(open_bytes: Callable[[], Any]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    with io.TextIOWrapper(io.BufferedReader(open_bytes()), encoding="utf-8") as stream:
        for number, line in enumerate(itertools.islice(stream, _SAMPLE), 1):
            try:
                value = json.loads(line) if line.strip() else {}
            except ValueError as error:
                raise Unreadable(f"line {number} is no JSON ({error}): {line[:60]!r}") from error
            if not isinstance(value, dict):
                raise Unreadable(f"line {number} is no JSON object: {line[:60]!r}")
            lines.append(value)
    return lines


def _type(name: str, values: list[Any]) -> pa.DataType:
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise Unreadable(f"column {name!r} mixes types: {error}") from error
