"""Mult-VAE (Liang et al., WWW 2018) and RecVAE (Shenbin et al., WSDM 2020), by Cornac."""

import itertools
from typing import Any

import numpy as np
from peer_split import Score, Split

PACKAGES = ("cornac", "torch", "numpy", "scipy")


def settings(name: str) -> list[dict[str, Any]]:
    """The grid; the papers' values first."""
    if name == "recvae":
        grid = itertools.product((0.005, 0.01, 0.0035), (30, 60))
        return [{"gamma": gamma, "n_epochs": epochs, "hidden_dim": 600, "latent_dim": 200} for gamma, epochs in grid]
    pairs = itertools.product((0.2, 0.01, 1.0), (30, 100))
    return [{"beta": beta, "n_epochs": epochs, "k": 200, "hidden": 600} for beta, epochs in pairs]


def fit(name: str, split: Split, setting: dict[str, Any], seed: int) -> tuple[Score, int]:
    """Scores, and the number of users times epochs: an example is a user's whole history, an item once."""
    import torch
    from cornac.data import Dataset
    from cornac.models import VAECF, RecVAE

    torch.manual_seed(seed)
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    taken = split.matrix()
    taken.data[:] = 1.0
    pairs = taken.tocoo()
    # Ids as they are, so that Cornac's rows are ours: every user and every item has an event.
    maps = {index: index for index in range(split.shape[0])}, {index: index for index in range(split.shape[1])}
    data = Dataset(*split.shape, *maps, (pairs.row, pairs.col, pairs.data), seed=seed)
    if name == "recvae":
        model = RecVAE(**setting, batch_size=256, seed=seed, use_gpu=has_gpu)
    else:
        hidden = {key: setting[key] for key in ("beta", "n_epochs", "k")}
        model = VAECF(
            **hidden,
            autoencoder_structure=[setting["hidden"]],
            likelihood="mult",
            batch_size=256,
            seed=seed,
            use_gpu=has_gpu,
        )
    model.fit(data)
    (model.recvae_model if name == "recvae" else model.vae).to(device).eval()

    def score(rows: np.ndarray) -> np.ndarray:
        dense = torch.tensor(taken[rows].toarray(), device=device)
        with torch.no_grad():
            if name == "recvae":
                return np.asarray(model.recvae_model(dense, calculate_loss=False).cpu().numpy(), np.float32)
            return np.asarray(model.vae.decode(model.vae.encode(dense)[0]).cpu().numpy(), np.float32)

    return score, split.shape[0] * setting["n_epochs"]
