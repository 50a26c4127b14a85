"""The command's former name: `longretriever inspect_log` is what it is called now."""

import runpy

if __name__ == "__main__":
    runpy.run_module("longretriever_tf.inspect_log", run_name="__main__", alter_sys=True)
