"""Segmenting volumes: runs, batches, models, installation."""
