"""A model learns from the slices that a user corrected: `adapt`."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rwkv_core.adaptation.evidence import LabelChange, supported_changes
from rwkv_core.adaptation.extent import belief_map
from rwkv_core.adaptation.finetuning import FineTuning, Recipe
from rwkv_core.adaptation.growing import fit_new_channels, grown_config, grown_network
from rwkv_core.adaptation.lessons import make_lessons
from rwkv_core.adaptation.samples import SampleMaker, unread_planes
from rwkv_core.bundle.bundle import Bundle, write_bundle
from rwkv_core.bundle.config import BundleConfig, Preprocessing
from rwkv_core.cancellation import Cancel, as_question
from rwkv_core.corrections import changed_values, slices_mask
from rwkv_core.engines import choose_device
from rwkv_core.errors import BundleError, CancelledError, InputError
from rwkv_core.inference.intensity import fit_intensity
from rwkv_core.models import RWKVUNet
from rwkv_core.vocabulary import SegmentClass, SliceIndex
from rwkv_core.volume import Volume
from rwkv_core.volume.geometry import slice_stack

_ANCHORS = 12
"""Slices in each plane that remind the network of what it knew."""

_EVIDENCE = 0.3
"""Of the time, that goes into what the corrections speak for."""

_WHOLE_FOR_NEW = 0.25
"""Of the time, that the whole network learns where only new classes were drawn: they need features of their own."""


@dataclass(frozen=True)
class Adaptation:
    """A model that has learnt from one user's slices. The one it came from is as it was: to revert is to use that one.

    Attributes:
        config: with the classes that were added, and a record of the adaptation; licence and citation as before.
        network: float32, in evaluation mode, on the CPU.
        changes: of labels among the classes that were there before, as far as the user's slices speak for them: what
            `segment_again` changes where nobody looked.
        seconds: that it took.
    """

    config: BundleConfig
    network: RWKVUNet
    changes: frozenset[LabelChange]
    seconds: float

    @property
    def bundle(self) -> Bundle:
        """As `Segmenter` takes it; nothing of it is on disk, and its folder does not exist."""
        bundle = Bundle(Path(f"unsaved {self.config.id}"), self.config)
        bundle.__dict__.update(network=self.network, weights=self.network)  # where cached_property keeps them
        return bundle

    def save(self, folder: Path) -> Bundle:
        """Write it as a bundle, in full precision.

        Raises:
            StorageError: when the disk is full or not writable.
        """
        return write_bundle(folder, self.config, self.network)


def adapt(
    bundle: Bundle,
    volume: Volume,
    labelmap: NDArray[np.unsignedinteger],
    slices: Sequence[SliceIndex],
    new_classes: Sequence[SegmentClass] = (),
    before: NDArray[np.unsignedinteger] | None = None,
    *,
    name: str,
    title: str,
    seconds: float = 55.0,
    device: str = "auto",
    recipe: Recipe | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> Adaptation:
    """Fine-tune a copy of a model on slices that the user has corrected.

    Args:
        bundle: a model that segments grey volumes; it is not changed.
        volume: that was segmented.
        labelmap: (K, J, I) with the truth in `slices`; values that no class has count as background.
        slices: wholly corrected: every pixel of them is taken as the truth.
        new_classes: that the model has never seen, each drawn in one of the slices at least.
        before: `labelmap` before the corrections. Where these are about new classes alone, no time is spent on what
            they say about the others.
        name: id of the adapted model.
        title: of the adapted model.
        seconds: to be done in, about; what it takes to get ready and to stop comes on top.
        device: as for `rwkv_core.engines.make_engine`.
        recipe: how to learn; None takes what does well.
        progress: called with (percent done, 100).
        cancel: asked at every step, or an event that may be set.

    Raises:
        InputError: when there is nothing to learn from, sizes differ, or a class is taken or was never drawn.
        BundleError: when the bundle cannot be adapted.
        CancelledError: when `cancel` said so.
    """
    start = time.perf_counter()
    cancelled = as_question(cancel)
    preprocessing = bundle.config.preprocessing
    if bundle.config.kind != "segmentation" or preprocessing is None or bundle.config.in_channels != 1:
        raise BundleError(f"{bundle.config.title} ({bundle.config.id}) does not segment volumes: nothing to adapt.")
    model = bundle.network
    if not isinstance(model, RWKVUNet):
        raise BundleError(
            f"{bundle.config.title} ({bundle.config.id}) works in three dimensions, and adapting works slice by slice.",
            hint="Adapt an RWKV-UNet model, or train this one further on your cases (rwkv-unet train).",
        )
    if labelmap.shape != volume.array.shape:
        raise InputError("The corrected labelmap and the volume differ in size.")
    if not slices:
        raise InputError("There are no corrected slices to learn from.", hint="Correct a slice, or mark one.")
    config = grown_config(bundle.config, new_classes)
    known = slices_mask(labelmap.shape, slices)
    _check_drawn(new_classes, labelmap, known)

    def bar(first: float, last: float) -> Callable[[int, int], None]:
        """The progress of one part, from `first` to `last` of the whole."""

        def report(done: int, total: int) -> None:
            if progress:
                progress(int(100 * (first + (last - first) * done / total)), 100)

        return report

    bar(0.0, 1.0)(0, 100)
    where = torch.device(choose_device(device))
    scale = fit_intensity(preprocessing.intensity, volume.array)
    beliefs = [belief_map(labelmap, one.value, slices, volume.spacing) for one in new_classes]
    if new_classes:
        config = _judged_where_drawn(config, preprocessing, [one.value for one in new_classes], volume, slices)
        assert config.preprocessing is not None
        preprocessing = config.preprocessing
    maker = SampleMaker(volume, preprocessing, scale, config.classes, labelmap, known, beliefs)
    slices = sorted(set(slices))
    own = [sample for sample in map(maker.of_slice, slices) if sample is not None]
    if not own:
        raise unread_planes(slices)
    new = [one.value for one in new_classes]
    only_new = before is not None and not changed_values(before, labelmap, slices, new) - set(new)
    recipe = recipe or (Recipe(whole_share=_WHOLE_FOR_NEW) if only_new else Recipe())
    changes: frozenset[LabelChange] = frozenset()
    share = 0.0
    if not only_new:
        share = _EVIDENCE
        changes = supported_changes(
            copy.deepcopy(model).to(where),
            maker,
            slices,
            share * seconds,
            recipe,
            bar(0, share),
            cancelled,
        )
    lessons = make_lessons(model, own, maker.others(_ANCHORS), where, cancelled)
    network = grown_network(model, len(new_classes)).to(where)
    fit_new_channels(
        network, len(new_classes), [one.image[None].to(where) for one in own], [one.labels[None] for one in own]
    )
    left = seconds - (time.perf_counter() - start)
    training = FineTuning(network, lessons, scale.clipped, max(left, 1.0), recipe, bar(share, 1.0), cancelled)
    training.run()
    if cancelled():
        raise CancelledError
    took = time.perf_counter() - start
    bar(0.0, 1.0)(100, 100)
    record = {
        "from": bundle.config.id,
        "slices": len(own),
        "new_classes": [one.name for one in new_classes],
        "steps": training.steps,
        "seconds": round(took, 1),
    }
    network = network.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return Adaptation(_recorded(config, name, title, record), network, changes, took)


def _judged_where_drawn(
    config: BundleConfig,
    preprocessing: Preprocessing,
    new: Sequence[int],
    volume: Volume,
    slices: Sequence[SliceIndex],
) -> BundleConfig:
    """New classes are looked for in slices along the axis of most corrections alone, which also come first.

    In a plane in which nobody drew it, a new class is learnt from lines alone, which is not enough. Where the model
    does not read that plane, new classes are looked for in all.
    """
    axes = [one.dimension for one in slices]
    axis = max(range(3), key=axes.count)
    codes = preprocessing.orientations
    shape = volume.array.shape
    stacks = {code: slice_stack(volume.ijk_to_ras, shape, code) for code in codes}
    chosen = [code for code in codes if stacks[code].slice_axis == axis][:1]
    first = (*chosen, *(code for code in codes if code not in chosen))
    told = tuple(stacks[code].code for code in chosen)
    classes = [replace(one, orientations=told) if one.value in new else one for one in config.classes]
    changes = {"classes": tuple(classes), "preprocessing": preprocessing.model_copy(update={"orientations": first})}
    return config.model_copy(update=changes)


def _check_drawn(
    new_classes: Sequence[SegmentClass], labelmap: NDArray[np.unsignedinteger], known: NDArray[np.bool_]
) -> None:
    drawn = set(np.unique(labelmap[known]).tolist())
    missing = [one.name for one in new_classes if one.value not in drawn]
    if missing:
        raise InputError(
            f"{', '.join(missing)}: not drawn in any of the corrected slices.",
            hint="Draw every new segment in at least one slice that is marked as corrected.",
        )


def _recorded(config: BundleConfig, name: str, title: str, record: dict[str, Any]) -> BundleConfig:
    """`config` under its new name, the adaptation added to the record of its training."""
    fields = config.model_dump()
    earlier = config.training.get("adaptations", [])
    fields |= {"id": name, "title": title, "training": {**config.training, "adaptations": [*earlier, record]}}
    return BundleConfig.model_validate(fields)
