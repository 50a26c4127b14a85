"""Where the versions of an export lie, and where each keeps its corpus. Imports no TensorFlow."""

import os

EXTRA = "assets.extra"
"""TensorFlow Serving ignores this folder but for warm-up requests: what people and tools need lies here."""


def versions(export_dir: str) -> list[int]:
    """Version numbers under `export_dir`, ascending."""
    if not os.path.isdir(export_dir):
        return []
    return sorted(int(name) for name in os.listdir(export_dir) if name.isdigit())


def corpus_path(version_dir: str) -> str:
    """The corpus that a version carries for people and tools."""
    return os.path.join(version_dir, EXTRA, "corpus.npz")
