"""Loaded by the tests' Dask workers before they start: counts model loads, and holds up what the test wants held up.

In the folder of the environment variable `PLACE`: `loads` gets a line for every loaded model; a task for a volume whose
name begins with "hold" writes its process id to `held` the first time, and waits until it is cancelled or killed.
"""

import os
import time
from pathlib import Path

PLACE = "DASK_TEST_PLACE"
LIMIT = 60


def dask_setup(worker):
    from rwkv_core.inference import batch, cluster, segmenter

    place = Path(os.environ[PLACE])
    segment_file, from_options = batch.segment_file, segmenter.Segmenter.from_options

    def load(options):
        with (place / "loads").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return from_options(options)

    def held_up(model, source, target, settings, progress=None, cancel=None):
        held = place / "held"
        if source.name.startswith("hold") and not held.exists():
            partial = place / "held.part"
            partial.write_text(str(os.getpid()))
            partial.rename(held)
            end = time.monotonic() + LIMIT
            while time.monotonic() < end and not cancel():
                time.sleep(0.02)
            (place / "cancelled").touch()
        return segment_file(model, source, target, settings, progress, cancel)

    segmenter.Segmenter.from_options, cluster.segment_file = load, held_up
