"""Which devices and how many processes a run has: one, several on this machine, or those of torchrun or SLURM."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from rwkv_core.engines import choose_device
from rwkv_core.errors import DeviceError, InputError, Remedy

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

MEMORY_HINT = "Choose a smaller batch, or smaller slices or blocks, or close other programs that use it."
"""What to do when a device has too little memory."""


@dataclass(frozen=True)
class Processes:
    """How many, on how many machines.

    Attributes:
        local: on this machine.
        launcher: who started them, in words; empty when this process has to.
    """

    local: int = 1
    machines: int = 1
    launcher: str = ""

    @property
    def total(self) -> int:
        return self.local * self.machines


def find_processes(wanted: int) -> Processes:
    """Read the processes from the environment that torchrun or srun sets; else `wanted` ones on this machine."""
    env = os.environ
    if "LOCAL_WORLD_SIZE" in env and "WORLD_SIZE" in env:
        local = int(env["LOCAL_WORLD_SIZE"])
        return Processes(local, int(env["WORLD_SIZE"]) // local, "torchrun")
    if "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", "1")) > 1:
        machines = int(env.get("SLURM_NNODES", "1"))
        return Processes(int(env["SLURM_NTASKS"]) // machines, machines, "SLURM")
    return Processes(wanted)


def is_first_process() -> bool:
    """Tell, before processes know of each other, whether this one writes files and messages.

    torchrun sets RANK; our own launcher LOCAL_RANK alone, also within a SLURM job, where all inherit one SLURM_PROCID.
    """
    return next((os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in os.environ), "0") == "0"


def make_fabric(device: str, processes: Processes, precision: str, batch: int, loggers: Any = None) -> "Fabric":
    """Make Lightning's Fabric for a run, not launched yet.

    Args:
        device: as in `rwkv_core.engines.choose_device`.
        precision: as in `Recipe`.
        batch: slices in a step, over all processes.
        loggers: of Lightning.

    Raises:
        DeviceError: when the device is not there, or there are fewer than asked for.
        InputError: when the batch cannot be divided evenly.
    """
    from lightning.fabric import Fabric  # takes seconds, which only a run pays
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    chosen = torch.device(choose_device(device))
    if batch % processes.total:
        raise InputError(
            f"A batch of {batch} cannot be shared evenly by {processes.total} processes.",
            hint=f"Choose a multiple of {processes.total}.",
            remedy=Remedy("choose batch"),
        )
    if chosen.type == "cuda" and processes.local > torch.cuda.device_count():
        raise DeviceError(
            f"{processes.local} processes on this machine need as many GPUs; it has {torch.cuda.device_count()}.",
            hint="Ask for fewer devices.",
        )
    if chosen.type == "mps" and processes.total > 1:
        raise DeviceError("Apple's GPU takes one process only.", hint="Ask for one device.")
    devices: Any = processes.local
    if chosen.type == "cuda" and chosen.index is not None and processes.total == 1:
        devices = [chosen.index]
    return Fabric(
        accelerator=chosen.type,
        devices=devices,
        num_nodes=processes.machines,
        strategy="ddp" if processes.total > 1 else "auto",
        plugins=[] if processes.launcher else [LightningEnvironment()],  # a SLURM job without srun is no launcher
        precision=choose_precision(precision, chosen),
        loggers=loggers,
    )


def choose_precision(precision: str, device: torch.device) -> Precision:
    """Choose what "auto" means: bfloat16 where the GPU computes in it, float16 on older ones, float32 elsewhere."""
    if precision != "auto":
        return precision  # type: ignore[return-value]
    if device.type != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def out_of_memory(error: BaseException) -> bool:
    """Tell whether a device had too little memory; cuDNN, cuBLAS and Metal say so in their own words."""
    words = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in words or "alloc_failed" in words)
    )


def loader_workers(asked: int | None, processes: Processes, device: torch.device) -> int:
    """Count the processes that load slices, for each training process: on a CPU few; the network needs the cores."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    most = 8 if device.type == "cuda" else 1
    return max(0, min(most, cores // processes.local - 1))
