"""The run that made the shipped brain model: RWKV-UNet-T on generated slices, or U-RWKV on generated blocks.

    python -m rwkv_core.training.brain LABEL_MAPS -o RUN [--config CONFIG] [--steps N] [--init BUNDLE] [--resume]

reads the network, classes and preprocessing from the shipped config.json or another one, keeps a checkpoint in RUN, and
writes the finished bundle to RUN/bundle. LABEL_MAPS is SynthSeg's folder of training label maps. A stopped run goes on
with `--resume`; a larger or smaller `--steps` then moves the end of the learning rate's schedule.
"""

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, distributed
from torch.utils.data import DataLoader, IterableDataset

from rwkv_core.bundle.bundle import new_network, read_bundle, write_bundle
from rwkv_core.bundle.config import BundleConfig, Patches, Spacing, parse_config
from rwkv_core.bundle.store import SHIPPED, Origin, load_bundle, record_origin
from rwkv_core.models import Network, RWKVUNet
from rwkv_core.training.block_synthesis import BlockGenerator
from rwkv_core.training.sided_loss import SidedLoss
from rwkv_core.training.synthesis import SAGITTAL, SliceGenerator, read_label_maps

SHAPES = ((160, 160), (144, 176), (176, 144), (192, 128), (128, 192), (160, 160), (128, 208))
"""Heights and widths of the batches, of about equal area, so that the network learns no fixed size."""

WARM_UP, DECAY = 300, 0.35
"""Steps of linear warm-up; final share of the steps over which the learning rate falls to zero."""


class GeneratedBatches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Endless batches of generated slices or blocks; every loader worker draws its own.

    A batch is images, labels, and whether each slice cannot tell left from right.

    Raises:
        ValueError: for a config whose slices are stretched to one size, or whose blocks have different spacings.
    """

    def __init__(self, folder: Path, config: BundleConfig, batch: int, seed: int):
        assert config.preprocessing is not None
        grid = config.preprocessing.resampling
        if isinstance(grid, Spacing):
            self.pixel, self.block = grid.pixel, None
        elif isinstance(grid, Patches) and len(set(grid.spacing)) == 1:
            self.pixel, self.block = grid.spacing[0], grid.size
        else:
            raise ValueError("the images are generated at one spacing; the config must ask for that")
        self.label_maps = read_label_maps(folder)
        self.classes = [c.freesurfer for c in (*config.classes, *config.surroundings)]
        self.batch, self.seed = batch, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        seed = 1000 * self.seed + 100 * rank + (worker.id if worker else 0)
        if self.block is not None:
            blocks = BlockGenerator(self.label_maps, self.classes, self.pixel, seed)
            while True:
                image, label = blocks.blocks(self.batch, *self.block)
                yield image, label, torch.zeros(self.batch, dtype=torch.bool)
        generate = SliceGenerator(self.label_maps, self.classes, self.pixel, seed)
        for height, width in itertools.cycle(SHAPES):
            image, label, plane = generate(self.batch, height, width)
            yield image, label, plane == SAGITTAL


class BrainTraining(lightning.LightningModule):
    """Cross entropy + soft Dice, AdamW; warm-up, constant rate, linear decay."""

    def __init__(self, network: Network, twin: Sequence[int], steps: int, rate: float):
        super().__init__()
        self.network = network
        self.loss = SidedLoss(twin)
        if isinstance(network, RWKVUNet):
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps, self.rate = steps, rate

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        image, label, sideless = batch
        entropy, dice = self.loss(self.network(image), label, sideless)
        self.log_dict({"cross_entropy": entropy, "dice": dice}, prog_bar=True)
        return entropy + 1 - dice

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.rate, weight_decay=0.01)
        decay_from = self.steps * (1 - DECAY)

        def factor(step: int) -> float:
            return min((step + 1) / WARM_UP, 1.0, max((self.steps - step) / (self.steps - decay_from), 1e-3))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def twins(config: BundleConfig) -> list[int]:
    """The channel of each channel's other side; its own number where there is none."""
    channel_of = {c.value: channel for channel, c in enumerate(config.classes, 1)}
    opposite = [
        channel if c.opposite is None else channel_of[c.opposite] for channel, c in enumerate(config.classes, 1)
    ]
    return [0, *opposite, *range(1 + len(config.classes), config.num_classes)]


def with_pixel(config: BundleConfig, pixel: float) -> BundleConfig:
    """The same bundle for slices of another pixel size, mm."""
    assert config.preprocessing and isinstance(config.preprocessing.resampling, Spacing)
    resampling = config.preprocessing.resampling.model_copy(update={"pixel": pixel})
    return config.model_copy(
        update={"preprocessing": config.preprocessing.model_copy(update={"resampling": resampling})}
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line of the module; see its first docstring."""
    parser = argparse.ArgumentParser(prog="python -m rwkv_core.training.brain", description=__doc__.split("\n")[0])
    parser.add_argument("label_maps", type=Path, help="SynthSeg's training_label_maps folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="run folder")
    parser.add_argument("--config", type=Path, help="config.json of the model to train; None for the shipped one")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that generate images, for each device")
    parser.add_argument("--devices", type=int, default=1, help="GPUs, or processes on the CPU")
    parser.add_argument("--pixel", type=float, help="pixel size, mm; None for the shipped bundle's")
    parser.add_argument("--init", help="bundle to start from, such as default; None starts from random weights")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    options = parser.parse_args(arguments)

    config = read_bundle(SHIPPED / "default").config
    if options.config:
        config = parse_config(options.config.read_bytes(), str(options.config))
    if options.pixel:
        config = with_pixel(config, options.pixel)
    lightning.seed_everything(options.seed)
    last = options.output / "last.ckpt"
    if last.exists() and not options.resume:
        parser.error(f"{options.output} already holds a run; add --resume, or choose another folder")
    data = GeneratedBatches(options.label_maps, config, options.batch, options.seed + last.exists())
    loader = DataLoader(data, batch_size=None, num_workers=options.workers)
    network = load_bundle(options.init).network if options.init else new_network(config)
    network.train().requires_grad_(True)
    module = BrainTraining(network, twins(config), options.steps, options.rate)
    average = EMAWeightAveraging(
        decay=min(0.998, 1 - 12 / (options.steps + 12))
    )  # the first weights are forgotten by the end
    trainer = lightning.Trainer(
        max_steps=options.steps,
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        use_distributed_sampler=False,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        logger=CSVLogger(options.output, name="", version="log"),
        callbacks=[
            average,
            ModelCheckpoint(options.output, save_last=True, save_top_k=0, every_n_train_steps=250),
        ],
        log_every_n_steps=50,
        default_root_dir=options.output,
    )
    trainer.fit(module, loader, ckpt_path=last if options.resume else None)
    size = math.prod(data.block or SHAPES[0])
    record = {
        "data": "images generated from SynthSeg's 20 label maps (Billot et al. 2023); no scan was used",
        "started_from": options.init or "random weights",
        "images": trainer.global_step * options.batch * options.devices,
        "steps": trainer.global_step,
        "batch": options.batch * options.devices,
        "pixels_per_image": size,
        "optimizer": f"AdamW {options.rate}, weight decay 0.01, warm-up {WARM_UP} steps, linear decay over the "
        f"last {DECAY:.0%} of the steps; exponential moving average of the weights",
        "loss": "cross entropy + soft Dice, of pairs in sagittal slices",
    }
    if not trainer.is_global_zero:
        return
    finished = config.model_copy(update={"training": record})
    bundle = write_bundle(options.output / "bundle", finished, module.network, half=True)
    record_origin(bundle.folder, Origin("trained"))


if __name__ == "__main__":
    main()
