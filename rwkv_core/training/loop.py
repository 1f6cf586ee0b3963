"""The training loop: epochs of steps, validation, checkpoints; goes on exactly where it was, ends with a clear word.

Written on Lightning Fabric, which brings devices, mixed precision and processes; the loop itself stays visible, since
its promises (exact resume, halved batches, a stop after the current step) are all in its order of events.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed

from rwkv_core.bundle.config import Patches
from rwkv_core.errors import Remedy, TrainingError
from rwkv_core.models import Network
from rwkv_core.training.batches import EpochOrder, TrainingBlocks, TrainingSlices, blocks_of_epoch, make_loader
from rwkv_core.training.checkpoint import Progress, load_checkpoint, save_checkpoint, save_weights
from rwkv_core.training.devices import MEMORY_HINT, out_of_memory
from rwkv_core.training.losses import LossParts, SegmentationLoss, consistency, two_views
from rwkv_core.training.pictures import draw_curve, draw_preview
from rwkv_core.training.recipe import Recipe
from rwkv_core.training.run_folder import LOG, RunFolder
from rwkv_core.training.run_status import Status
from rwkv_core.training.slice_cache import SliceCache
from rwkv_core.training.validation import Preview, Validation, validate
from rwkv_core.vocabulary import SegmentClass

if TYPE_CHECKING:
    from lightning.fabric import Fabric

FIGURES = ("loss", "cross_entropy", "dice_loss", "consistency")
_CHECK_EVERY = 10
"""Steps between two looks at whether the loss is a number: a look makes the host wait for the device."""

_LOADER_LIMITS = 0.15
"""Share of the time spent waiting for slices from which on the loader is what limits the speed."""

_CURVE_SECONDS = 20.0


class Loop:
    """One run on this process.

    Args:
        fabric: launched.
        network: of the run, with its starting weights.
        classes: in the order of the network's channels, background left out.
        size: height and width of training slices; of a volumetric network, its blocks.
        stop: asked after every step.
        workers: processes that load slices.
    """

    def __init__(
        self,
        fabric: "Fabric",
        folder: RunFolder,
        status: Status,
        recipe: Recipe,
        cache: SliceCache,
        network: Network,
        classes: Sequence[SegmentClass],
        size: tuple[int, int] | Patches,
        stop: Callable[[], bool],
        workers: int,
    ):
        self.fabric, self.folder, self.status, self.recipe, self.cache = fabric, folder, status, recipe, cache
        self.names, self.colors, self.stop = [c.name for c in classes], [c.color for c in classes], stop
        self.loss = SegmentationLoss(recipe.loss)
        self.progress = Progress()
        self.blocks = size if isinstance(size, Patches) else None
        if fabric.device.type == "cuda" and self.blocks is None:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.network = network
        self.model, self.optimizer = fabric.setup(network, optimizer)
        unlabelled = cache.of_split("unlabelled") if recipe.consistency else []
        extra = (recipe.consistency.batch or recipe.batch) if recipe.consistency else 0
        samples: TrainingSlices | TrainingBlocks
        if isinstance(size, Patches):
            self.unit, self.square = "block", False
            labelled, samples = blocks_of_epoch(cache, size), TrainingBlocks(cache, recipe.augmentation, size)
        else:
            self.unit, self.square = "slice", size[0] == size[1]
            labelled, samples = cache.of_split("train"), TrainingSlices(cache, recipe.augmentation, size)
        self.order = EpochOrder(
            labelled, recipe.batch, recipe.seed, fabric.global_rank, fabric.world_size, unlabelled, extra
        )
        self.share = recipe.batch // fabric.world_size
        self.loader = make_loader(samples, self.order, workers, pin=fabric.device.type == "cuda")
        self._waited = self._epoch_seconds = 0.0
        self._drawn = 0.0
        self._steps_now, self._began = 0, time.perf_counter()

    def resume(self, key: str) -> None:
        """Take up the state of last.ckpt.

        Raises:
            CheckpointError: when it is damaged.
        """
        content = load_checkpoint(self.folder.last_checkpoint)
        self.progress = Progress(**content["progress"])
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self._precision.load_state_dict(content["scaler"])
        if self.progress.key != key:
            LOG.warning("The data set has changed since the run was stopped; it goes on with what is there now.")
        if self.progress.step and self.progress.steps != self.order.steps:  # another batch, other slices
            self.progress.step, self.progress.sums = 0, {}
        LOG.info("Resumed in epoch %d at step %d.", self.progress.epoch + 1, self.progress.step)

    def run(self, key: str) -> bool:
        """Train until the end, an early stop, or a stop; whether it came to its end.

        Raises:
            TrainingError: when the loss is no number, or a single slice does not fit the memory.
            StorageError: when a checkpoint cannot be written.
        """
        steps = self.order.steps
        self.progress.key, self.progress.steps = key, steps
        total = self.recipe.epochs * steps
        LOG.info(
            "%d epochs of %d steps of %d %ss on %s, %d process%s.",
            self.recipe.epochs, steps, self.recipe.batch, self.unit, self.fabric.device, self.fabric.world_size,
            "es" if self.fabric.world_size > 1 else "",
        )  # fmt: skip
        self.network.train()
        self.status.update(state="running", epochs=self.recipe.epochs, steps=total)
        while self.progress.epoch < self.recipe.epochs and not self._early():
            if not self._epoch():
                self._checkpoint()
                self.status.update(state="stopping", now=True)
                return False
        self._draw(force=True)
        return True

    def _epoch(self) -> bool:
        """Give the rest of one epoch; False when it was stopped."""
        at = self.progress
        self.order.start_at(at.epoch, at.step)
        rate = cosine_rate(self.recipe, at.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums = torch.tensor([at.sums.get(name, 0.0) for name in FIGURES], dtype=torch.float64)
        sums = sums.to(self.fabric.device, torch.float32 if self.fabric.device.type == "mps" else torch.float64)
        self._waited, start = 0.0, time.perf_counter()
        saved, first = start, at.step
        batches = iter(self.loader)
        while at.step < self.order.steps:
            before = time.perf_counter()
            image, label = next(batches)
            image, label = self.fabric.to_device((image, label))
            self._waited += time.perf_counter() - before
            sums += self._step(image, label, at.epoch * self.order.steps + at.step)
            at.step += 1
            self._steps_now += 1
            last = at.step == self.order.steps
            if at.step % _CHECK_EVERY == 0 or last:
                self._require_number(sums)
                self.status.update(loss=float(sums[0]) / at.step)
            now = time.perf_counter()
            self._report(at.epoch * self.order.steps + at.step)
            stop, save = self._agreed(self.stop(), now - saved > 60 * self.recipe.checkpoint_minutes)
            if last or not (stop or save):
                continue
            self._require_number(sums)
            at.sums = self._averaged(sums)
            if stop:
                at.seconds += now - start
                return False
            self._checkpoint()
            saved = now
        self._epoch_seconds = time.perf_counter() - start
        return self._end_epoch(sums, rate, at.step - first)

    def _step(self, image: Tensor, label: Tensor, number: int) -> Tensor:
        """Make one change of the weights, in as many parts as fit the memory; the figures (4,)."""
        while True:
            # Drop path draws from torch's own source: what it gives must depend on the step alone.
            torch.manual_seed(
                (self.recipe.seed * 1_000_003 + number) * self.fabric.world_size + self.fabric.global_rank
            )
            try:
                return self._in_parts(image, label, number)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            # Outside the handler, so that the failed attempt's tensors are freed first.
            self.optimizer.zero_grad()
            self._use_less_memory()

    def _in_parts(self, image: Tensor, label: Tensor, number: int) -> Tensor:
        parts = self.progress.parts
        labelled = zip(image[: self.share].tensor_split(parts), label[: self.share].tensor_split(parts), strict=True)
        unlabelled = image[self.share :].tensor_split(parts)
        figures = torch.zeros(len(FIGURES), dtype=torch.float32, device=image.device)
        for n, ((some, truth), more) in enumerate(zip(labelled, unlabelled, strict=True)):
            weight = len(some) / self.share
            with self.fabric.no_backward_sync(self.model, enabled=n < parts - 1):
                found = self._losses(some, truth, more, number)
                self.fabric.backward(found.total * weight)
            terms = (found.total, found.cross_entropy, found.dice, found.consistency)
            figures += weight * torch.stack([figures.new_zeros(()) if t is None else t.detach().float() for t in terms])
        if self.recipe.gradient_clip:
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.recipe.gradient_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return figures

    def _losses(self, image: Tensor, label: Tensor, unlabelled: Tensor, number: int) -> LossParts:
        if not self.recipe.consistency or not len(unlabelled):
            return self.loss(self.model(image), label)
        view, other_view, noise = two_views((self.recipe.seed * 1_000_003 + number) % 2**31, self.square)
        views = [view.apply(unlabelled, noise), other_view.apply(unlabelled, noise)]
        logits = self.model(torch.cat([image, *views]))
        supervised, first, second = logits.split([len(image), len(unlabelled), len(unlabelled)])
        found = self.loss(supervised, label)
        term = consistency(view.undo(first), other_view.undo(second))
        total = found.total + self.recipe.consistency.weight * term
        return LossParts(total, found.cross_entropy, found.dice, term)

    def _use_less_memory(self) -> None:
        """Twice as many parts.

        Raises:
            TrainingError: when a part is a single slice or block already, or other processes would be left behind.
        """
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        parts = 2 * self.progress.parts
        extra = self.order.unlabelled_batch // self.fabric.world_size
        if self.fabric.world_size > 1 or parts > min(self.share, extra or self.share):
            raise TrainingError(
                f"{self.fabric.device} has too little memory for "
                + (f"{self.share} {self.unit}s at once." if self.fabric.world_size > 1 else "a part of the batch."),
                hint=MEMORY_HINT,
                remedy=Remedy("choose batch"),
            )
        self.progress.parts = parts
        LOG.warning(
            "The memory of %s does not hold the batch: from here on it is computed in %d parts of at most %d %ss, "
            "and their gradients are added up.", self.fabric.device, parts, -(-self.share // parts), self.unit,
        )  # fmt: skip

    def _end_epoch(self, sums: Tensor, rate: float, steps_now: int) -> bool:
        """Validate, write the row and the checkpoint; False when validation was stopped."""
        at = self.progress
        self._same_everywhere()
        at.sums = self._averaged(sums)
        row: dict[str, Any] = {"epoch": at.epoch + 1, "step": (at.epoch + 1) * self.order.steps, "learning_rate": rate}
        row |= {name: at.sums[name] / self.order.steps for name in FIGURES}
        if not self.recipe.consistency:
            row.pop("consistency")
        improved = False
        start = time.perf_counter()
        if self.cache.of_split("validation"):
            result = self._validate()
            if result is None:
                return False
            row |= {"validation_loss": result.loss, "validation_dice": result.mean_dice}
            row |= {
                f"dice_{name}": None if math.isnan(value) else value
                for name, value in zip(self.names, result.dice, strict=True)
            }
            improved = result.mean_dice > at.best
            if improved:
                at.best, at.best_epoch = result.mean_dice, at.epoch + 1
            self._show(result.preview)
        validated = time.perf_counter() - start
        waiting = self._waited / max(self._epoch_seconds, 1e-9)
        speed = steps_now * self.recipe.batch / max(self._epoch_seconds, 1e-9)
        row |= {
            "seconds": round(self._epoch_seconds + validated, 3),
            "slices_per_second": round(speed, 2),
            "loader_share": round(waiting, 4),
        }
        at.seconds += self._epoch_seconds + validated
        at.epoch, at.step, at.sums = at.epoch + 1, 0, {}
        at.rows.append(row)
        limit = "loader" if waiting > _LOADER_LIMITS else "network"
        LOG.info(
            "Epoch %d of %d: loss %.4f%s; %.1f %ss/s, limited by the %s (%.0f %% of the time waiting for %ss).",
            at.epoch, self.recipe.epochs, row["loss"],
            f", validation Dice {row['validation_dice']:.4f}{' (best)' if improved else ''}"
            if "validation_dice" in row else "",
            speed, self.unit, limit, 100 * waiting, self.unit,
        )  # fmt: skip
        if self.fabric.is_global_zero:
            if improved:
                save_weights(self.folder.best_checkpoint, self.network.state_dict(), at.epoch)
            self.folder.write_metrics(at.rows)
            self.fabric.log_dict({k: v for k, v in row.items() if v is not None and k != "epoch"}, step=at.epoch)
        self._checkpoint()
        self.status.update(epoch=at.epoch, best_dice=max(at.best, 0.0), best_epoch=at.best_epoch, last=row, limit=limit)
        self._draw()
        return True

    def _validate(self) -> Validation | None:
        """Validate with as many slices at once as in a part of a step; None when it was stopped."""
        stop = self.stop if self.fabric.world_size == 1 else lambda: False
        while True:
            batch = max(1, -(-self.share // self.progress.parts))
            try:
                return validate(
                    self.fabric, self.network, self.loss, self.cache, len(self.names) + 1, batch, stop, self.blocks
                )
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            self._use_less_memory()

    def _checkpoint(self) -> None:
        if self.fabric.is_global_zero:
            save_checkpoint(
                self.folder.last_checkpoint, self.progress, self.network.state_dict(), self.optimizer.state_dict(),
                self._precision.state_dict(),
            )  # fmt: skip
        self.fabric.barrier()

    def _same_everywhere(self) -> None:
        """Running statistics of the first process to all, so that they validate what is stored."""
        if self.fabric.world_size > 1:
            for buffer in self.network.buffers():
                distributed.broadcast(buffer, 0)

    def _agreed(self, *wishes: bool) -> list[bool]:
        """Share what any of the processes wants with all of them."""
        if self.fabric.world_size == 1:
            return list(wishes)
        votes = torch.tensor(wishes, dtype=torch.float32, device=self.fabric.device)
        distributed.all_reduce(votes, distributed.ReduceOp.MAX)
        return [vote > 0 for vote in votes.tolist()]

    def _averaged(self, sums: Tensor) -> dict[str, float]:
        """Figures summed over the steps, averaged over the processes."""
        mean = sums.clone()
        if self.fabric.world_size > 1:
            distributed.all_reduce(mean)
        return dict(zip(FIGURES, (mean / self.fabric.world_size).tolist(), strict=True))

    def _require_number(self, sums: Tensor) -> None:
        if not bool(torch.isfinite(sums).all()):
            raise TrainingError(
                f"The loss became infinite or no number in epoch {self.progress.epoch + 1}, within the last "
                f"{_CHECK_EVERY} steps before step {self.progress.step}.",
                hint="last.ckpt is from before. Resume with a lower learning rate, with single precision, or with "
                "gradients clipped to 1.",
                remedy=Remedy("lower learning rate"),
            )

    def _early(self) -> bool:
        """Tell whether the validation Dice has not become better for too long."""
        at, patience = self.progress, self.recipe.early_stopping
        if patience is None or not at.best_epoch or at.epoch - at.best_epoch < patience:
            return False
        LOG.info(
            "No better validation Dice for %d epochs (best: %.4f in epoch %d): done.", patience, at.best, at.best_epoch
        )
        return True

    def _report(self, done: int) -> None:
        elapsed = time.perf_counter() - self._began
        left = (self.recipe.epochs * self.order.steps - done) * elapsed / max(self._steps_now, 1)
        self.status.update(step=done, epoch=self.progress.epoch, seconds_left=round(left, 1))

    def _show(self, preview: Preview | None) -> None:
        if preview is None or not self.fabric.is_global_zero:
            return
        draw_preview(self.folder / "preview.png", preview.image, preview.label, preview.prediction, self.colors)
        new = self.folder / ".preview.new.npz"
        np.savez_compressed(new, image=preview.image, label=preview.label, prediction=preview.prediction)
        with suppress(OSError):  # somebody reads the old one on Windows
            new.replace(self.folder / "preview.npz")

    def _draw(self, force: bool = False) -> None:
        now = time.perf_counter()
        if self.fabric.is_global_zero and self.progress.rows and (force or now - self._drawn > _CURVE_SECONDS):
            draw_curve(self.folder / "curve.png", self.progress.rows, self.folder.path.name)
            self._drawn = time.perf_counter()

    @property
    def _precision(self) -> Any:
        """Holds the scale of the gradients where float16 is used."""
        return self.fabric.strategy.precision


def cosine_rate(recipe: Recipe, epoch: int) -> float:
    """Give the learning rate of an epoch, counted from 0: torch's CosineAnnealingLR with T_max = epochs."""
    wave = (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    return recipe.minimum_rate + (recipe.learning_rate - recipe.minimum_rate) * wave
