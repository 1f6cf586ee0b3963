"""Runs in processes of their own, forked from one that has imported everything, and killed where a test says so."""

import multiprocessing
import os
import signal
import sys

MOMENTS = {
    "while slices are prepared": ("rwkv_core.training.slice_cache", "_add_case", 2),
    "within a step": ("rwkv_core.training.loop", "Loop._step", 4),
    "while a checkpoint is written": ("rwkv_core.training.checkpoint", "torch.save", 3),
    "while the model goes into the list": ("rwkv_core.training.finished_model", "install", 1),
}
"""Where, in which function, and at which of its calls a run is killed."""

_PRELOADED = ["rwkv_core.training.run", "rwkv_core.cli.train", "lightning.fabric.loggers.tensorboard"]


def run_command(arguments, environment, moment=None):
    """Exit code of `rwkv-unet ...` in a new process; -9 where it was killed at one of `MOMENTS`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=_run, args=(arguments, environment, moment))
    process.start()
    process.join(300)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def _run(arguments, environment, moment):
    os.environ.update(environment)
    import torch

    from rwkv_core.cli import main

    torch.set_num_threads(1)
    if moment:
        module, name, at = MOMENTS[moment]
        owner = sys.modules[module]
        *path, name = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, name, _killed_at(at, getattr(owner, name)))
    sys.exit(main([str(word) for word in arguments]))


def _killed_at(at, inner):
    calls = []

    def call(*arguments, **options):
        calls.append(None)
        if len(calls) == at:
            for file in arguments:
                if hasattr(file, "write"):  # half of it is there
                    file.write(b"half a checkpoint")
                    file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments, **options)

    return call
