"""The command's former name: `longretriever load_test` is what it is called now."""

import runpy

if __name__ == "__main__":
    runpy.run_module("longretriever_tf.serving.load_test", run_name="__main__", alter_sys=True)
