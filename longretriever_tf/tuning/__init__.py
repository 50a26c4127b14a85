"""A search over settings, driven by the configs of `train`; `tune` is its command."""
