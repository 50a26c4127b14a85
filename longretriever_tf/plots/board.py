"""TensorBoard's files: scalars read without TensorFlow, pictures written."""

import glob
import os
import struct
import time

from longretriever_tf.common.files import explain_os_errors


def read_scalars(directory: str) -> dict[str, list[tuple[float, float]]]:
    """Scalars of a TensorBoard directory by tag: (step, value), by step; of two values of a step the later counts.

    An event file is records of (length uint64, its crc, payload, its crc); the reader stops at a record cut short, as
    a kill leaves it, or damaged.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto import event_pb2  # protobuf alone: no TensorFlow
    from tensorboard.util import tensor_util

    scalars: dict[str, dict[float, float]] = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(directory), "events.out.tfevents.*"))):
        with open(path, "rb") as file:
            content = file.read()
        at = 0
        while at + 12 <= len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            if at + 16 + length > len(content):
                break
            try:
                event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            except DecodeError:
                break
            at += 16 + length
            for value in event.summary.value:
                if value.WhichOneof("value") == "tensor":
                    number = tensor_util.make_ndarray(value.tensor)
                    if number.ndim == 0 and number.dtype.kind == "f":
                        scalars.setdefault(value.tag, {})[float(event.step)] = float(number)
    return {tag: sorted(points.items()) for tag, points in scalars.items()}


def write_image(directory: str, tag: str, png: bytes, step: int = 0) -> None:
    """Adds a PNG to a TensorBoard directory, where its Images tab shows it under `tag`.

    Args:
      directory: of the events; created if need be.
      tag: for example "report/training"; a later picture of the same tag and step is shown next to the earlier.
      png: the file's bytes.
      step: where on TensorBoard's slider.

    Raises:
      UserError: the directory cannot be written.
    """
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.plugins.image import metadata
    from tensorboard.summary.writer.record_writer import RecordWriter
    from tensorboard.util import tensor_util

    # width and height as text, then the picture: what TensorBoard's image plugin reads
    width, height = struct.unpack(">II", png[16:24])
    parts = [str(width).encode(), str(height).encode(), png]
    value = summary_pb2.Summary.Value(
        tag=tag,
        tensor=tensor_util.make_tensor_proto(parts),
        metadata=metadata.create_summary_metadata(display_name=None, description=""),
    )
    first = event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")
    event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=[value]))
    path = os.path.join(directory, f"events.out.tfevents.{time.time():.6f}.{os.getpid()}.image")
    with explain_os_errors(f"cannot write {path!r}"):
        os.makedirs(directory, exist_ok=True)
        with open(path, "wb") as file:
            writer = RecordWriter(file)
            for one in (first, event):
                writer.write(one.SerializeToString())
