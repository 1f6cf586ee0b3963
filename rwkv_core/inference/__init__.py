"""From a volume to its labelmap: whole volumes, single slices, batches."""
