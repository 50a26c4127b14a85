"""JSON text to Python values, with the error messages of rapidjson, which TensorFlow Serving parses with."""

import json
from typing import Any

import orjson

from longretriever_tf.serving.server.json_replies import decimal_text
from longretriever_tf.serving.server.status import ServingError, invalid

MAX_QUOTED = 1000
"""Characters of a request that an error message repeats; TensorFlow Serving repeats all, however long."""

_MESSAGES = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Extra data": "The document root must not be followed by other values.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
}
_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a request body must be; NaN, Infinity and -Infinity are read.

    Bytes that are not UTF-8 are kept, as rapidjson keeps them (surrogateescape).

    Raises:
      ServingError: INVALID_ARGUMENT, empty, malformed, too deeply nested, or not an object.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:  # malformed, or legal to rapidjson alone: NaN, Infinity, bytes that are not UTF-8
        value = _parse_leniently(body)
    if not isinstance(value, dict):
        raise invalid(f"JSON Value: {quote(value)} Is not object")
    return value


def _parse_leniently(body: bytes) -> Any:
    """Slower, and the one that knows where a text is malformed."""
    text = body.decode("utf-8", "surrogateescape")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _parse_error(error, text) from None
    except RecursionError:
        raise invalid("JSON Parse error: arrays or objects are nested too deeply") from None
    except ValueError:  # a number of more than 4,300 digits
        raise invalid("JSON Parse error: Number too big to be stored in double.") from None


def quote(value: Any) -> str:
    """A JSON value for an error message: indented, cut after MAX_QUOTED characters."""
    if isinstance(value, float):
        return decimal_text(value)
    if isinstance(value, dict | list):
        text = ""
        for chunk in json.JSONEncoder(indent=4, ensure_ascii=False).iterencode(value):
            text += chunk
            if len(text) > MAX_QUOTED:
                break
    else:
        text = json.dumps(value, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "..."


def type_name(value: Any) -> str:
    """Rapidjson's name of a value's type: Null, False, True, Object, Array, String or Number."""
    if isinstance(value, bool):
        return str(value)
    return _TYPES[type(value)]


def _parse_error(error: json.JSONDecodeError, text: str) -> ServingError:
    if not text.strip():
        return invalid(f"JSON Parse error: The document is empty. at offset: {len(text)}")
    if error.msg == "Expecting ',' delimiter":
        end = "}" if _inside_object(text, error.pos) else "]"
        after = "an object member" if end == "}" else "an array element"
        message = f"Missing a comma or {end} after {after}."
    else:
        message = _MESSAGES.get(error.msg, error.msg)
    offset = len(text[: error.pos].encode("utf-8", "surrogateescape"))
    return invalid(f"JSON Parse error: {message} at offset: {offset}")


def _inside_object(text: str, position: int) -> bool:
    """Whether the innermost bracket that is open at `position` is a brace."""
    stack: list[str] = []
    in_string = escaped = False
    for char in text[:position]:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "{[":
            stack.append(char)
        elif char in "}]" and stack:
            stack.pop()
    return bool(stack) and stack[-1] == "{"
