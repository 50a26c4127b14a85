"""LightGCN (He et al., SIGIR 2020), by PyTorch Geometric: its model and its loss, trained here by BPR triples."""

from typing import Any

import numpy as np
from peer_split import Score, Split

PACKAGES = ("torch-geometric", "torch", "numpy")
_BATCH = 65_536


def settings(name: str) -> list[dict[str, Any]]:
    """One change at a time from the paper's values, but for the batch, which is large: a step passes over the graph."""
    del name
    base = {"dim": 64, "layers": 3, "rate": 5e-3, "penalty": 1e-4, "epochs": 20}
    changes: list[dict[str, Any]] = [{}, {"layers": 2}, {"penalty": 1e-3}, {"epochs": 60}, {"rate": 1e-3}, {"dim": 128}]
    return [base | change for change in changes]


def fit(name: str, split: Split, setting: dict[str, Any], seed: int) -> tuple[Score, int]:
    """Scores, and the number of triples."""
    import torch
    from torch_geometric.nn.models import LightGCN

    del name
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pairs = split.matrix().tocoo()
    num_users, num_items = split.shape
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    user = torch.tensor(pairs.row, dtype=torch.int64, device=device)
    item = torch.tensor(pairs.col, dtype=torch.int64, device=device) + num_users
    edges = torch.cat([torch.stack([user, item]), torch.stack([item, user])], dim=1)
    size = num_users + num_items
    degree = torch.bincount(edges[0], minlength=size).clamp(min=1).float()
    weight = (degree[edges[0]] * degree[edges[1]]).rsqrt()
    graph = torch.sparse_coo_tensor(edges, weight, (size, size)).coalesce()
    model = LightGCN(size, setting["dim"], setting["layers"]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), setting["rate"])

    def embed() -> Any:
        """The model's `get_embedding`, by a sparse product in place of messages: a tenth of the time."""
        state = model.embedding.weight
        total = state * model.alpha[0]
        for layer in range(setting["layers"]):
            state = torch.sparse.mm(graph, state)
            total = total + state * model.alpha[layer + 1]
        return total

    for _ in range(setting["epochs"]):
        for part in torch.tensor(rng.permutation(len(user)), device=device).split(_BATCH):
            other = torch.tensor(rng.integers(num_users, size, len(part)), device=device)
            vectors = embed()
            better = (vectors[user[part]] * vectors[item[part]]).sum(1)
            worse = (vectors[user[part]] * vectors[other]).sum(1)
            nodes = torch.cat([user[part], item[part], other])
            loss = model.recommendation_loss(better, worse, nodes, lambda_reg=setting["penalty"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        vectors = embed().cpu().numpy()
    users, items = vectors[:num_users], vectors[num_users:]
    return lambda rows: users[rows] @ items.T, len(user) * setting["epochs"]
