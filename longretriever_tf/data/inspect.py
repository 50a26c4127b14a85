"""The command's former name: `python -m longretriever_tf.inspect_log` is what it is called now."""

from longretriever_tf.inspect_log import run

if __name__ == "__main__":
    run()
