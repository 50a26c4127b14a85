"""Every setting of a run: its dataclasses, recipes, checks, and command-line flags."""

from longretriever_tf.config.config import (
    Config,
    DataConfig,
    IndexConfig,
    ModelConfig,
    RetrievalConfig,
    TrainConfig,
    load_config,
)

__all__ = ["Config", "DataConfig", "IndexConfig", "ModelConfig", "RetrievalConfig", "TrainConfig", "load_config"]
