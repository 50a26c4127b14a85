"""Scores for a model in training, epoch after epoch, by graphs that are traced once."""

from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.models.build import Models


class LiveScorer(LongRetrieverScorer):
    """`LongRetrieverScorer` whose graphs read the weights as they are; `renew` once they have moved.

    Args:
      config: the run's config.
      prepared: the window before the time of the requests.
      models: in training.
    """

    _freezes = False

    def __init__(self, config: Config, prepared: Prepared, models: Models) -> None:
        super().__init__(config, prepared, models.retriever, models.interest, config.retrieval)
        self._models = models

    def renew(self) -> None:
        """Embeds the items anew."""
        self.forget()
        self._served.renew(self._models.retriever, self._prepared.corpus, self._prepared.stats.item[-1])
        self._read_items()

    def forget(self) -> None:
        """Lets go of what is kept of the latest users: training needs the memory."""
        self._cache.clear()
