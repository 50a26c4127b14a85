"""Packages that an extra of setup.cfg installs: what is said where one is missing. Imports no TensorFlow."""

import contextlib
from collections.abc import Iterator

from longretriever_tf.common.errors import UserError


@contextlib.contextmanager
def needs_extra(what: str, extra: str, *packages: str) -> Iterator[None]:
    """Imports within the block may lack these packages; the error then names the extra.

    Args:
      what: needs them, as a sentence begins: "serve".
      extra: of setup.cfg.
      *packages: that the extra installs, as they are imported. Another one that is missing is no matter of the extra.

    Raises:
      UserError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise UserError(
            f"{what} needs the package {error.name}, which is not installed: pip install 'longretriever_tf[{extra}]'"
        ) from error
