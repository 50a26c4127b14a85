"""The `tf.data` part of the input pipelines: order, resuming, and what an iterator costs."""

import subprocess
import sys

from longretriever_tf.data.batches.pipeline import numbered_batches


def test_batches_come_in_order_from_any_number_on():
    squares = [int(batch) for batch in numbered_batches(lambda i: i * i, 0, 50)]
    assert squares == [i * i for i in range(50)]
    assert [int(batch) for batch in numbered_batches(lambda i: i * i, 47, 50)] == squares[47:]
    assert not list(numbered_batches(lambda i: i, 3, 3))


def test_an_iterator_does_not_copy_what_its_batches_are_read_from():
    """Peak memory of a fresh process, which nothing else has raised before, over three epochs."""
    code = """
import resource
import longretriever_tf, tensorflow as tf
from longretriever_tf.data.batches.pipeline import numbered_batches
with tf.device("/CPU:0"):
    kept = tf.ones([120_000_000])
def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
read = lambda i: tf.reduce_sum(tf.gather(kept, [i, i + 1]))
list(numbered_batches(lambda i: i, 0, 3))
before = peak_mb()
epochs = [sum(float(batch) for batch in numbered_batches(read, 0, 5)) for _ in range(3)]
assert epochs == [10.0] * 3, epochs
print(peak_mb() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    grown_mb = float(done.stdout.split()[-1])
    assert grown_mb < 100, f"{grown_mb} MB more, where 458 MB are kept"
