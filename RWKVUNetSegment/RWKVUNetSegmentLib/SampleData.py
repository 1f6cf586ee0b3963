"""The sample head scan in Slicer's Sample Data module."""


def registerSampleData() -> None:
    """Register the scan that ships with rwkv_core, with its SHA-256 and a thumbnail. Called at start-up, loads nothing."""
    raise NotImplementedError
