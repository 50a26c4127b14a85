"""Tiny SavedModels for the server's tests: every dtype, defaults, several outputs, failures, slowness."""

import os
import pathlib

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2


class Toy(tf.Module):
    """`version` marks the answers of `serving_default`."""

    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = tf.Variable(version, dtype=tf.int64)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.int64, "ids"),
            tf.TensorSpec([None], tf.float32, "weight"),
            tf.TensorSpec([None], tf.string, "name"),
            tf.TensorSpec([None], tf.bool, "flag"),
            tf.TensorSpec([None], tf.int32, "k"),
        ]
    )
    def several(self, ids, weight, name, flag, k=tf.constant([7], tf.int32)):  # noqa: B008 - a signature's default
        rows = tf.shape(ids)[0]
        return {
            "total": tf.reduce_sum(ids, 1),
            "scaled": weight[:, None] * tf.constant([[0.1, 1.0, 3.0]]),
            "shout": tf.strings.upper(name),
            "name_bytes": name,
            "flag": tf.logical_not(flag),
            "k": tf.broadcast_to(k, [rows]),
            "version": tf.fill([rows], self.version),
        }

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
    def half_plus_two(self, x):
        return {"y": x / 2 + 2}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "s")])
    def echo(self, s):
        return {"s": tf.identity(s)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64, "x")])
    def double(self, x):
        return {"x": tf.identity(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.uint8, "x")])
    def small(self, x):
        return {"x": tf.identity(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def picky(self, x):
        with tf.control_dependencies([tf.debugging.assert_less(x, 100.0, message="x must stay below 100")]):
            return {"x": tf.identity(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "rounds")])
    def slow(self, rounds):
        matrix = tf.eye(256) * 0.5 + 0.5 / 256
        product = matrix
        for _ in tf.range(tf.reduce_max(rounds)):
            product = tf.matmul(product, matrix)
        return {
            "trace": tf.fill(tf.shape(rounds), tf.linalg.trace(product)),
            "version": tf.fill(tf.shape(rounds), self.version),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "path")])
    def held(self, path):
        """Busy until a file lies at path[0]; leaves one at path[0] + ".begun" first. See `hold`."""
        with tf.control_dependencies([tf.io.write_file(path[0] + ".begun", "")]):
            rounds, found = tf.constant(0), tf.constant(0)
        while found == 0 and rounds < 50_000_000:  # the second pattern, never there, changes: no look is left out
            found = tf.size(tf.io.matching_files(tf.stack([path[0], path[0] + tf.strings.as_string(rounds)])))
            rounds += 1
        # Were `found` no output, the loop would be left out.
        return {"version": tf.fill(tf.shape(path), self.version), "found": tf.fill(tf.shape(path), found)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def uneven(self, x):
        return {"all": tf.identity(x), "first": x[:1]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def scalar(self, x):
        return {"sum": tf.reduce_sum(x)}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64, "history_item_id")])
    def history(self, history_item_id):
        return {"length": tf.fill([tf.shape(history_item_id)[0]], tf.shape(history_item_id)[1])}

    @tf.function(input_signature=[])
    def nothing(self):
        return {"version": tf.identity(self.version)[None]}


def save_toy(base_path: pathlib.Path | str, version: int) -> str:
    """Writes a toy version directory; returns it."""
    toy = Toy(version)
    path = os.path.join(base_path, str(version))
    signatures = {name: getattr(toy, name) for name in SIGNATURES}
    tf.saved_model.save(toy, path, signatures={"serving_default": toy.several} | signatures)
    return path


SIGNATURES = (
    "half_plus_two",
    "echo",
    "double",
    "small",
    "picky",
    "slow",
    "held",
    "uneven",
    "scalar",
    "history",
    "nothing",
)


class Answer(tf.Module):
    """The smallest model: `x` [B] float in, its version [B] out. Saved in a third of a second."""

    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = tf.Variable(version, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def answer(self, x):
        return {"version": tf.fill(tf.shape(x), self.version)}


def save_answer(base_path: pathlib.Path | str, version: int, *, warmup: float | None = None) -> str:
    """Writes an `Answer` aside and renames it into place, with a warm-up request where `warmup` is a number."""
    model = Answer(version)
    aside = os.path.join(base_path, f".{version}.aside")
    final = os.path.join(base_path, str(version))
    tf.saved_model.save(model, aside, signatures={"serving_default": model.answer})
    if warmup is not None:
        write_warmup(aside, "x", [warmup])
    os.rename(aside, final)
    return final


class Hold:
    """A request that the toy model works on from its start until `let_go`, however fast or busy the machine is."""

    def __init__(self, directory: pathlib.Path, name: str = "hold") -> None:
        self.path = os.path.join(directory, name)
        self.body = {"signature_name": "held", "instances": [self.path]}

    def has_begun(self) -> bool:
        """Whether the model works on it."""
        return os.path.exists(f"{self.path}.begun")

    def let_go(self) -> None:
        """Lets this and every later run end."""
        pathlib.Path(self.path).touch()


def write_warmup(path: str, name: str, values: list) -> None:
    """Writes assets.extra/tf_serving_warmup_requests with one predict request."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "whatever"
    request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    extra = os.path.join(path, "assets.extra")
    os.makedirs(extra, exist_ok=True)
    with tf.io.TFRecordWriter(os.path.join(extra, "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
