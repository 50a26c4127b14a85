"""The models that `plan` computes with: fitted.json, which benchmarks/fit_plan.py writes. Imports no TensorFlow."""

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

from longretriever_tf.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class FittedModel:
    """A figure as a sum of terms, none of them negative: it never falls where an input grows.

    Attributes:
      unit: of the figure.
      coefficients: by input; "constant" stands for 1.
      sources: files of measurements that it was fitted on and compared with.
      worst_error: the largest relative error on the held-out measurements; None where there is none to compare with.
      held_out: those measurements: inputs, measured, predicted.
      largest: the largest input that was measured, by input.
      note: what the measurements are of.
    """

    unit: str
    coefficients: Mapping[str, float]
    sources: tuple[str, ...]
    worst_error: float | None
    held_out: tuple[Mapping[str, Any], ...]
    largest: Mapping[str, float]
    note: str

    def predict(self, **inputs: float) -> float:
        """The figure; an input that the model has no term of changes nothing.

        Raises:
          KeyError: an input of the model is missing.
        """
        values = inputs | {"constant": 1.0}
        return sum(weight * values[name] for name, weight in self.coefficients.items())


def load_models() -> dict[str, FittedModel]:
    """The models that ship with the package, by name.

    Raises:
      UserError: this checkout has none.
    """
    path = importlib.resources.files(__package__).joinpath("fitted.json")
    if not path.is_file():
        raise UserError(f"{path} does not exist: write it from the measurements by `python benchmarks/fit_plan.py`")
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    fields = [field.name for field in dataclasses.fields(FittedModel)]
    return {name: FittedModel(**{field: _frozen(one[field]) for field in fields}) for name, one in models.items()}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
