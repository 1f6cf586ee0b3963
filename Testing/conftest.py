"""Settings of all tests, made before anything is imported that reads them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # faster for small steps, and fairer to other processes
