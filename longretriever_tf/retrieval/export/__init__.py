"""From a trained run to a published version: SavedModel, checks in a fresh process, refresh."""
