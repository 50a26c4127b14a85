"""Settings of the towers. Imports no TensorFlow."""

import dataclasses

from longretriever_tf.config.baselines import LONGRETRIEVER, MODELS
from longretriever_tf.config.field import setting as _field


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Towers (eq. 1) and what their tokens carry."""

    model: str = _field(
        LONGRETRIEVER,
        "What is trained. longretriever: this package's own. Baselines on the user's latest events: two_tower (the "
        "same Transformer), mind (dynamic routing, Li et al. 2019), comirec (self-attention, Cen et al. 2020).",
        MODELS,
    )
    dim: int = _field(
        64, "Width of user and item vectors and of the Transformer. Measured: 128 gains nothing.", above=0
    )
    num_layers: int = _field(1, "Pre-LN Transformer layers of the user tower. Measured: 2 gain nothing.", above=0)
    num_heads: int = _field(4, "Attention heads; must divide --dim. 4 in every result.", above=0)
    ff_dim: int = _field(128, "Width of the feed-forward block. 128 in every result.", above=0)
    dropout: float = _field(0.1, "Dropout in the Transformer. Measured: more gains nothing.", least=0, most=0.99)
    max_length: int = _field(
        50,
        "L: at most this many of the latest behaviors of the category are read. Measured: recall@20 within the "
        "category 0.630 (10), 0.638 (50), 0.639 (200).",
        above=0,
    )
    subsequence: str = _field(
        "items",
        "What a behavior token is. events: each event (the paper). items: each distinct "
        "item among the category's latest --max_events events, newest first, with its count, "
        "recency and rhythm as features. Measured: recall@100 0.297 (items), 0.287 (events).",
        ("items", "events"),
    )
    history_events: int = _field(
        0,
        "Read only the latest so many events of the user's whole history, in hard search and interests "
        "alike; 0: all of them. The ablation of the long sequence; measured: 200 cost 0.014 of recall@100.",
        hidden=True,
        least=0,
    )
    max_events: int = _field(
        256,
        "subsequence=items: how many of the category's latest events are summarised; raise it with --max_length.",
        hidden=True,
        above=0,
    )
    item_id: bool = _field(
        False,
        "Give each item a trainable id embedding, besides its side features. The paper's; measured: MIND needs it "
        "(0.165 against 0.154), the full recipe does not.",
    )
    svd_dim: int = _field(
        128,
        "Width of the frozen SVD of the training user x item matrix that the item tower projects; 0: none. Measured: "
        "without it and --user_context novel recall@100 falls from 0.101 to 0.093.",
        least=0,
    )
    profile: bool = _field(False, "Read the profile tokens. The paper's; measured: no gain on Complete Journey.")
    request_features: tuple[str, ...] = _field(
        (),
        "Tokens of the user tower that say when a request comes, comma separated: hour (of the day), weekday. A "
        "request has them from its request_timestamp, an example from the time of its event or of its snapshot. Not "
        "measured.",
    )
    timezone_offset_hours: float = _field(
        0.0,
        "request_features: local time is so many hours ahead of UTC (5.5 in India, -8 in Los Angeles), all year round.",
        least=-14,
        most=14,
    )
    user_context: bool = _field(
        True,
        "Add a token that sums up the whole history across categories, strictly past: the decayed sum of its items' "
        "SVD rows; needs --svd_dim. Measured: without it novel recall@100 falls from 0.101 to 0.097.",
    )
    history_dropout: float = _field(
        0.5,
        "user_context: dropout of what that token reads, which overfits where users are few. Measured: 0.5 against 0 "
        "gains 0.004 of novel recall@100.",
        least=0,
        most=0.99,
    )
    repeat_term: bool = _field(
        True,
        "Add a learned logit to the items that the subsequence itself holds, for repeats; needs --loss=full. Measured: "
        "without it recall@100 falls from 0.297 to 0.275.",
    )
    action_counts: bool = _field(
        False,
        "With --target_actions and --subsequence=items: each token also says how often its item was taken by these "
        "actions, and how often by others (both decayed with a half-life of 90 days), so that an item that was viewed "
        "three times differs from one that was bought three times.",
    )
    item_stats: bool = _field(
        True,
        "Let popularity, staleness and repeat rate of the item (at the request's time) bias "
        "its logit; needs --loss=full. Measured: without them novel recall@100 falls from 0.101 to 0.092.",
    )
    normalize: bool = _field(
        False,
        "L2-normalise user and item vectors; pair with a --temperature near 0.05. The paper leaves the "
        "similarity open.",
        hidden=True,
    )
    temperature: float = _field(
        1.0, "Inner products are divided by this before the softmax. 1 in every result.", hidden=True, above=0
    )
    unknown_rate: float = _field(
        0.05,
        "Share of ids and values replaced by 'unknown' in training, so that new items, "
        "users and values get sensible vectors: without it their embeddings would be untrained.",
        hidden=True,
        least=0,
        most=0.99,
    )

    @property
    def reads_history_embedding(self) -> bool:
        """Whether the user tower has a token of the whole history."""
        return self.model == LONGRETRIEVER and self.user_context
