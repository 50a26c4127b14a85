"""Asks exports in a process that knows TensorFlow and nothing of this package, as a server would."""

import os
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

ASK = """
import pickle, sys
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
with open(sys.argv[1], "rb") as file:
    questions = pickle.load(file)
answers, loaded, models = [], {}, {}
for version, name, columns in questions:
    if version not in loaded:
        loaded[version] = tf.saved_model.load(version)
        models[version] = saved_model_pb2.SavedModel()
        with open(version + "/saved_model.pb", "rb") as file:
            models[version].ParseFromString(file.read())
    # As TensorFlow Serving does it: what a request leaves out comes from the signature's defaults.
    defaults = models[version].meta_graphs[0].signature_def[name].defaults
    columns = {key: tf.make_ndarray(value) for key, value in defaults.items()} | columns
    try:
        answer = loaded[version].signatures[name](**{key: tf.constant(value) for key, value in columns.items()})
        answers.append({key: value.numpy() for key, value in answer.items()})
    except tf.errors.InvalidArgumentError as error:
        answers.append(str(error))
assert "longretriever_tf" not in sys.modules
with open(sys.argv[2], "wb") as file:
    pickle.dump(answers, file)
"""

Question = tuple[str, str, dict[str, np.ndarray]]
"""Version directory, signature, columns."""


def ask_fresh(directory: pathlib.Path, questions: Sequence[Question]) -> list[dict[str, np.ndarray]]:
    """Answers of exports' signatures, given by one fresh process; where a call is refused, its words."""
    paths = [str(directory / name) for name in ("questions.pickle", "answers.pickle")]
    with open(paths[0], "wb") as file:
        pickle.dump(list(questions), file)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *paths],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    with open(paths[1], "rb") as file:
        return pickle.load(file)
