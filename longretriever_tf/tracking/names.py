"""The trackers that there are, and whether they are installed. Imports no TensorFlow."""

import importlib
from collections.abc import Sequence

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import first_line

TRACKERS = ("wandb", "mlflow")


def check_names(names: Sequence[str]) -> None:
    """Refuses a name that is no tracker.

    Raises:
      UserError: names it.
    """
    unknown = [name for name in names if name not in TRACKERS]
    if unknown or len(set(names)) < len(names):
        raise UserError(
            f"--tracker={','.join(names)}: expected {' or '.join(TRACKERS)}, or several separated by commas, each once"
        )


def require_installed(names: Sequence[str]) -> None:
    """Proves that the packages can be imported: before a training, not when it has something to say.

    Raises:
      UserError: one is missing; names the extra that brings it.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"--tracker={name} needs the package {name}: pip install 'longretriever_tf[{name}]' "
                f"({first_line(error)})"
            ) from error
