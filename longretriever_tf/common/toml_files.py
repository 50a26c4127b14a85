"""TOML files that people write: plans of experiments, spaces of a search. Imports no TensorFlow."""

import sys
from typing import Any

from longretriever_tf.common.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: str, flag: str, examples: str) -> dict[str, Any]:
    """The values of a TOML file.

    Args:
      path: of the file.
      flag: that names it.
      examples: folder of such files, for whoever named one that does not exist.

    Raises:
      UserError: no such file, or not TOML.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UserError(f"--{flag}={path}: {error.strerror}; the {flag}s that come along lie in {examples}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error
