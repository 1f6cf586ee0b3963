"""Settings of all tests, made before anything is imported that reads them."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # faster for small steps, and fairer to other processes


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """No test, nor a process that it starts, reads or fills the cache of whoever runs it.

    The processes of pytest-xdist share it: what one of them has compiled, all have.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RWKV_UNET_CACHE", str(folder))
        yield folder
