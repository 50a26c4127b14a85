"""`train` as one process of a test: on several logical CPU devices, or with every table gathered row by row.

python -m worker_of_test NUM_DEVICES SMALL_TABLE --flags of train
"""

import importlib
import sys

import longretriever_tf  # noqa: F401 - before TensorFlow: it picks the Keras of TF Recommenders

import tensorflow as tf  # isort: skip

from longretriever_tf.config import flags
from longretriever_tf.training.distributed import gradients

if __name__ == "__main__":
    num_devices, gradients.SMALL_TABLE = int(sys.argv.pop(1)), int(sys.argv.pop(1))
    if num_devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices)
    flags.run_command(importlib.import_module("longretriever_tf.train").main)
