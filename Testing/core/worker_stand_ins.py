"""A worker in which things go wrong: a program that the tests run.

The server is the real one. A few functions are wrapped before it starts, and what goes wrong is what the volume's name
says (`FAULTS`). A volumetric network tells the log what goes through it. It also prints to standard output before it
starts, as a launcher may do.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

GREETING = "the launcher says hello"
SLOW_MODEL = "slow"  # a bundle folder of this name, at first, loads until somebody cancels
ALIVE = "WORKER_TEST_ALIVE"  # environment variable: the FIFO of a `Watch`, held open while the worker lives
CHILD_ALIVE = "WORKER_TEST_CHILD_ALIVE"  # likewise, while the child process of a worker that hangs lives
BLOCK = "block:"  # in the log, before the sides of what goes through a volumetric network,
TELL_BLOCKS = "WORKER_TEST_TELL_BLOCKS"  # where this environment variable is set: it takes torch
LIMIT = 60  # seconds after which it gives up waiting for the test

PROGRAM = [sys.executable, __file__]


def show_alive(variable):
    """Hold the FIFO of `Watch` open until this process ends."""
    if path := os.environ.get(variable):
        os.write(os.open(path, os.O_WRONLY), b"x")


def _noise(**_):
    print("printed by Python")
    os.write(1, b"written by C\n")
    subprocess.run([sys.executable, "-c", "print('printed by a child')"], check=True)


def _hang(**_):
    subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal; from core.worker_stand_ins import *; show_alive(CHILD_ALIVE); signal.pause()",
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    threading.Event().wait()


def _raise(error):
    def fault(**_):
        raise error

    return fault


def _gpu_memory(**_):
    import torch

    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Now:
    """The worker's queue, and the job that runs."""

    jobs = job = None


def _wait_for_another_request(**_):
    with Now.jobs._changed:
        Now.jobs._changed.wait_for(lambda: Now.jobs._waiting, LIMIT)


FAULTS = {
    "noise": _noise,
    "hang": _hang,
    "wait for another request": _wait_for_another_request,
    "wait for cancel": lambda cancel, **_: cancel.wait(LIMIT),
    "exit": lambda **_: os._exit(7),
    "killed": lambda **_: os.kill(os.getpid(), signal.SIGKILL),
    "memory": _raise(MemoryError()),
    "torch memory": _raise(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")),
    "gpu memory": _gpu_memory,
    "defect": _raise(ValueError("negative dimensions: ü软")),
    "system exit": _raise(SystemExit(3)),
}
"""Each happens in the middle: after the first batch of slices, where there are several."""


def main():
    from rwkv_core.bundle import store
    from rwkv_core.inference.segmenter import PreparedVolume
    from rwkv_core.worker import server
    from rwkv_core.worker.jobs import Jobs

    segment, load_bundle, take_next, slowed = PreparedVolume.segment, store.load_bundle, Jobs.next, []

    def faulty_segment(self, region=None, probabilities=False, progress=None, cancel=None, options=None):
        def then_fail(done, total):
            progress(done, total)
            if 0 < done < total and self.volume.name in FAULTS:
                FAULTS[self.volume.name](cancel=cancel)

        return segment(self, region, probabilities, then_fail, cancel, options)

    def slow_load(bundle):
        if Path(bundle).name == SLOW_MODEL and not slowed:
            slowed.append(bundle)
            Now.job.cancelled.wait(LIMIT)
        return load_bundle(bundle)

    def next_and_tell(self):
        Now.jobs, Now.job = self, take_next(self)
        return Now.job

    PreparedVolume.segment, store.load_bundle, Jobs.next = faulty_segment, slow_load, next_and_tell
    if os.environ.get(TELL_BLOCKS):
        _tell_blocks()
    print(GREETING, flush=True)
    show_alive(ALIVE)
    return server.main()


def _tell_blocks():
    from rwkv_core.models.u_rwkv import URWKV

    forward = URWKV.forward

    def telling_forward(self, volume):
        print(BLOCK, *volume.shape[2:], file=sys.stderr)
        return forward(self, volume)

    URWKV.forward = telling_forward


if __name__ == "__main__":
    sys.exit(main())
