"""What the training benchmarks begin with: the log up to the cut, its examples, the towers and their phase."""

import time
from typing import Any, NamedTuple


class Start(NamedTuple):
    """Everything before the first step.

    Attributes:
      log: the whole log.
      cuts: its cuts.
      prepared: the window before the training cut.
      examples: of the towers.
      source: their batches.
      models: untrained, feature scales set.
      phase: trains the towers.
      prepare_s: seconds from the log to the examples.
      source_s: seconds from the examples to batches.
    """

    log: Any
    cuts: Any
    prepared: Any
    examples: Any
    source: Any
    models: Any
    phase: Any
    prepare_s: float
    source_s: float


def start_towers(config: Any) -> Start:
    """Reads the log that `config` names, and builds what `train` would."""
    from longretriever_tf.data.batches.in_context import BatchSource
    from longretriever_tf.data.batches.prepared_data import load_split, prepare, prepare_examples
    from longretriever_tf.data.batches.tables import training_cut
    from longretriever_tf.models.build import build_models, set_token_scale
    from longretriever_tf.training.phases import Phase
    from longretriever_tf.training.setup import with_epochs

    log, cuts = load_split(config)
    start = time.perf_counter()
    prepared = prepare(config, log, training_cut(config, cuts))
    examples, _ = prepare_examples(config, prepared)
    prepare_s = time.perf_counter() - start
    start = time.perf_counter()
    source = BatchSource(config, prepared, examples)
    source_s = time.perf_counter() - start
    models = build_models(config, prepared.corpus, prepared.item_svd)
    epochs = with_epochs(config, source.num_rows).train.epochs
    phase = Phase("towers", epochs, models.retriever, source, config.train.seed)
    set_token_scale(models.retriever.user_tower, source.make_dataset(0).take(16))
    return Start(log, cuts, prepared, examples, source, models, phase, prepare_s, source_s)
