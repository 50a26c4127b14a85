"""The command's former name: `python -m longretriever_tf.serving.load_test` is what it is called now."""

from longretriever_tf.config import flags
from longretriever_tf.serving import load_test

if __name__ == "__main__":
    flags.run_command(load_test.main)
