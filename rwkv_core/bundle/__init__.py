"""A model on disk: its config and weights; which exist, which are here; download, import, publish."""
