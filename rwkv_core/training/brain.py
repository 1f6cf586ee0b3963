"""The run that made the shipped brain model: `rwkv-unet train LABEL_MAPS --preset brain -o RUN`.

RWKV-UNet-T on generated slices, or U-RWKV on generated blocks, by the config.json of the model. LABEL_MAPS is the
folder of training label maps of SynthSeg. RUN keeps a checkpoint; the finished bundle is RUN/bundle.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, distributed
from torch.utils.data import DataLoader, IterableDataset

from rwkv_core.bundle.bundle import new_network, read_bundle, write_bundle
from rwkv_core.bundle.config import BundleConfig, Patches, Spacing, parse_config
from rwkv_core.bundle.store import SHIPPED, Origin, load_bundle, record_origin
from rwkv_core.engines import choose_device
from rwkv_core.errors import InputError, Remedy
from rwkv_core.models import Network
from rwkv_core.models.rwkv_unet import RWKVUNet
from rwkv_core.training.batches import begin_worker
from rwkv_core.training.devices import choose_precision
from rwkv_core.training.losses import SidedLoss
from rwkv_core.training.recipe import StrictModel
from rwkv_core.training.synthesis import SAGITTAL, BlockGenerator, SliceGenerator, read_label_maps

SHAPES = ((160, 160), (144, 176), (176, 144), (192, 128), (128, 192), (160, 160), (128, 208))
"""Heights and widths of the batches, of about equal area, so that the network learns no fixed size."""

WARM_UP, DECAY = 300, 0.35
"""Steps of linear warm-up, a twentieth of a short run; final share over which the learning rate falls to zero."""

CHECKPOINTS = timedelta(minutes=2)
"""Between two of them."""


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


def warm_up_steps(steps: int) -> int:
    """Say over how many steps of a run the learning rate rises."""
    return max(1, min(WARM_UP, steps // 20))


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
        decay_from, warm_up = self.steps * (1 - DECAY), warm_up_steps(self.steps)

        def factor(step: int) -> float:
            return min((step + 1) / warm_up, 1.0, max((self.steps - step) / (self.steps - decay_from), 1e-3))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def twins(config: BundleConfig) -> list[int]:
    """Give the channel of each channel's other side; its own number where there is none."""
    channel_of = {c.value: channel for channel, c in enumerate(config.classes, 1)}
    opposite = [
        channel if c.opposite is None else channel_of[c.opposite] for channel, c in enumerate(config.classes, 1)
    ]
    return [0, *opposite, *range(1 + len(config.classes), config.num_classes)]


class BrainRecipe(StrictModel):
    """How a brain model is trained.

    Attributes:
        config: config.json of the model to train; None for the shipped one.
        pixel: mm, of slices; None for that of the config.
        steps: of all runs together; the learning rate falls over the last ones.
        batch: images of a step, on each device.
        rate: highest learning rate.
        seed: of all random numbers.
        workers: processes that generate images, for each device.
        background: what is added to RWKV-UNet's logit of the background once it is trained (logit adjustment, Menon et
            al. 2021), and taken off a model to start from: on scans, the fluid around the brain else ends too early.
            Nobody measured it for U-RWKV, which is left as it is.
    """

    config: str | None = None
    pixel: PositiveFloat | None = None
    steps: PositiveInt = 7000
    batch: PositiveInt = 8
    rate: PositiveFloat = 1.5e-3
    seed: int = 1
    workers: NonNegativeInt = 1
    background: float = -1.5

    def described(self) -> BundleConfig:
        """Read the description of the model to train.

        Raises:
            InputError: when the file cannot be read.
            BundleError: when it is not valid.
        """
        config = read_bundle(SHIPPED / "default").config
        if self.config:
            try:
                config = parse_config(Path(self.config).read_bytes(), self.config)
            except OSError as error:
                raise InputError(f"{self.config} cannot be read: {error.strerror}.") from None
        if self.pixel is None:
            return config
        assert config.preprocessing is not None
        if not isinstance(config.preprocessing.resampling, Spacing):
            raise InputError("The model's slices have no pixel size that could be changed.")
        resampling = config.preprocessing.resampling.model_copy(update={"pixel": self.pixel})
        preprocessing = config.preprocessing.model_copy(update={"resampling": resampling})
        return config.model_copy(update={"preprocessing": preprocessing})


def train_brain(
    label_maps: Path,
    run: Path,
    recipe: BrainRecipe,
    *,
    init: str | None = None,
    device: str = "auto",
    devices: int = 1,
    resume: bool = False,
) -> Path | None:
    """Train, or go on training; gives the folder of the finished bundle, in the first process only.

    Args:
        label_maps: SynthSeg's folder of training label maps.
        run: folder of the run: checkpoint, log, bundle.
        recipe: of a resumed run too: a larger or smaller number of steps moves the end of the schedule.
        init: bundle to start from, such as "default"; None starts from random weights.
        device: as in `rwkv_core.engines.make_engine`.
        devices: GPUs, or processes on the CPU.
        resume: go on from the run's last checkpoint.

    Raises:
        InputError: when the folder holds a run already, or none to resume.
    """
    last = run / "last.ckpt"
    if last.exists() and not resume:
        raise InputError(
            f"{run} already holds a run.", hint="Resume it, or choose another folder.", remedy=Remedy("resume run")
        )
    if resume and not last.exists():
        raise InputError(
            f"{run} holds no run to go on with.", hint="Start one, or check the path.", remedy=Remedy("start run")
        )
    config = recipe.described()
    lightning.seed_everything(recipe.seed)
    data = GeneratedBatches(label_maps, config, recipe.batch, recipe.seed + resume)
    loader = DataLoader(data, batch_size=None, num_workers=recipe.workers, worker_init_fn=begin_worker)
    network = load_bundle(init).network if init else new_network(config)
    if init:
        _raise_background(network, -recipe.background)
    network.train().requires_grad_(True)
    module = BrainTraining(network, twins(config), recipe.steps, recipe.rate)
    chosen = torch.device(choose_device(device))
    trainer = lightning.Trainer(
        max_steps=recipe.steps,
        accelerator=chosen.type,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        use_distributed_sampler=False,
        precision=choose_precision("auto", chosen),
        gradient_clip_val=1.0,
        logger=CSVLogger(run, name="log"),
        callbacks=[
            # The first weights are forgotten by the end.
            EMAWeightAveraging(decay=min(0.998, 1 - 12 / (recipe.steps + 12))),
            ModelCheckpoint(run, save_last=True, save_top_k=0, train_time_interval=CHECKPOINTS),
        ],
        log_every_n_steps=50,
        default_root_dir=run,
    )
    trainer.fit(module, loader, ckpt_path=last if resume else None)
    if not trainer.is_global_zero:
        return None
    _raise_background(network, recipe.background)
    record = {
        "data": "images generated from SynthSeg's 20 label maps (Billot et al. 2023); no scan was used",
        "started_from": init or "random weights",
        "images": trainer.global_step * recipe.batch * devices,
        "steps": trainer.global_step,
        "batch": recipe.batch * devices,
        "pixels_per_image": math.prod(data.block or SHAPES[0]),
        "optimizer": f"AdamW {recipe.rate}, weight decay 0.01, warm-up {warm_up_steps(recipe.steps)} steps, linear "
        f"decay over the last {DECAY:.0%} of the steps; exponential moving average of the weights",
        "loss": "cross entropy + soft Dice, of pairs in sagittal slices",
    }
    if isinstance(network, RWKVUNet):
        record["background"] = f"logit adjusted by {recipe.background:g} after training"
    finished = config.model_copy(update={"training": record})
    bundle = write_bundle(run / "bundle", finished, module.network, half=True)
    record_origin(bundle.folder, Origin("trained"))
    return bundle.folder


def _raise_background(network: Network, by: float) -> None:
    if isinstance(network, RWKVUNet):
        assert network.final_conv.bias is not None
        with torch.no_grad():
            network.final_conv.bias[0] += by
