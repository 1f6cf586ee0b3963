"""The user's choices, saved with the scene, and what they mean for the logics."""

import enum
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Minimum, WithinRange, parameterNodeWrapper

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import Islands, SegmentOptions
from RWKVUNetSegmentLib.Scene.RegionOfInterest import sliceRange
from RWKVUNetSegmentLib.Scene.SliceDirection import SliceDirection, axisOf
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import SegmentationParameters
from RWKVUNetSegmentLib.Training.TrainingLogic import TrainingRequest


class Region(enum.Enum):
    """Which part of the volume to segment."""

    WHOLE = "whole"
    SLICE = "slice"
    RANGE = "range"
    ROI = "roi"

    def label(self) -> str:
        return {
            Region.WHOLE: _("Whole volume"),
            Region.SLICE: _("Current slice"),
            Region.RANGE: _("Range of slices"),
            Region.ROI: _("Box (ROI)"),
        }[self]


class Preference(enum.Enum):
    """What the user says to something that the model recommends: leave it at that, or do otherwise."""

    MODEL = "model"
    YES = "yes"
    NO = "no"

    def label(self) -> str:
        return {
            Preference.MODEL: _("As recommended"),
            Preference.YES: _("Yes"),
            Preference.NO: _("No"),
        }[self]


class Pipeline(enum.Enum):
    """How a model is used: as well as it can be, or exactly as its paper did."""

    BEST = "best"
    PAPER = "paper"

    def label(self) -> str:
        return {Pipeline.BEST: _("Best"), Pipeline.PAPER: _("As published")}[self]


class OverlapRule(enum.Enum):
    """What becomes of a voxel in which two models find different structures."""

    LATER = "later"
    EARLIER = "earlier"
    BOTH = "both"

    def label(self) -> str:
        return {
            OverlapRule.LATER: _("Where they overlap: the later model"),
            OverlapRule.EARLIER: _("Where they overlap: the earlier model"),
            OverlapRule.BOTH: _("Where they overlap: both"),
        }[self]


@parameterNodeWrapper
class RWKVUNetSegmentParameterNode:
    """What the panel shows and the scene keeps.

    firstSlice and lastSlice count from 1, as people do; a last slice beyond the volume means its end. thenModels is a
    JSON list of the models that follow the first one. For training: trainingOmittedClasses is a JSON list, classes are
    learned unless their tick was taken away; trainingModel empty and trainingEpochs 0 leave it to the recipe;
    trainingRunsFolder empty means the default one; trainingRun is the run shown. The segmentations to learn from are
    node references.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    outputSegmentation: slicer.vtkMRMLSegmentationNode
    model: str = "default"
    thenModels: str = "[]"
    overlap: OverlapRule = OverlapRule.LATER
    device: str = "auto"
    engine: str = "auto"
    mode: Pipeline = Pipeline.BEST
    region: Region = Region.WHOLE
    sliceView: slicer.vtkMRMLSliceNode
    sliceDirection: SliceDirection = SliceDirection.AXIAL
    firstSlice: Annotated[int, Minimum(1)] = 1
    lastSlice: Annotated[int, Minimum(1)] = 100000
    roi: slicer.vtkMRMLMarkupsROINode
    average: Preference = Preference.MODEL
    keepLargest: Preference = Preference.MODEL
    smoothing: Annotated[float, WithinRange(0.0, 5.0)] = 0.0
    show3D: bool = False
    batchInputFolder: str = ""
    batchOutputFolder: str = ""
    trainingFolder: str = ""
    trainingOmittedClasses: str = "[]"
    trainingModel: str = ""
    trainingPreset: str = "finetune"
    trainingUnlabelled: str = ""
    trainingEpochs: Annotated[int, Minimum(0)] = 0
    trainingDevice: str = "auto"
    trainingName: str = ""
    trainingRunsFolder: str = ""
    trainingRun: str = ""


def parametersOf(node: RWKVUNetSegmentParameterNode) -> SegmentationParameters:
    """What to segment and how, as chosen.

    Raises:
        InputError: when the region is not chosen, or lies outside the volume.
    """
    return SegmentationParameters(
        inputVolume=node.inputVolume,
        outputSegmentation=node.outputSegmentation,
        options=optionsOf(node),
        region=_regionOf(node) if node.inputVolume else None,
        show3D=node.show3D,
    )


def optionsOf(node: RWKVUNetSegmentParameterNode, anyModality: bool = False) -> SegmentOptions:
    """The choices that hold for single volumes, previews and batches alike."""
    islands: dict[Preference, Islands] = {
        Preference.MODEL: "bundle",
        Preference.YES: "remove",
        Preference.NO: "keep",
    }
    return SegmentOptions(
        model=node.model,
        device=node.device,
        engine=node.engine,
        mode=node.mode.value,
        islands=islands[node.keepLargest],
        smoothing=float(node.smoothing),
        average={Preference.MODEL: None, Preference.YES: True, Preference.NO: False}[node.average],
        any_modality=anyModality,
        then=thenModelsOf(node),
        overlap=node.overlap.value,
    )


def thenModelsOf(node: RWKVUNetSegmentParameterNode) -> tuple[str, ...]:
    """Ids of the models that follow the first one; those of a scene that was edited by hand are none."""
    try:
        models = [str(each) for each in json.loads(node.thenModels)]
    except (TypeError, ValueError):
        return ()
    return tuple(each for each in dict.fromkeys(models) if each != node.model)


def setThenModels(node: RWKVUNetSegmentParameterNode, models: Iterable[str]) -> None:
    """Choose the models that follow the first one."""
    node.thenModels = json.dumps(list(models))


def _regionOf(node: RWKVUNetSegmentParameterNode) -> Any:
    if node.region is Region.SLICE:
        if node.sliceView is None:
            raise InputError(_("Choose under Advanced the view whose slice is to be segmented."))
        return node.sliceView
    if node.region is Region.ROI:
        if node.roi is None:
            raise InputError(_("Choose or create a box (ROI) under Advanced."))
        return node.roi
    if node.region is Region.RANGE:
        axis, count = axisOf(node.inputVolume, node.sliceDirection)
        last = min(node.lastSlice, count)
        first = min(node.firstSlice, last)
        return sliceRange(node.inputVolume, axis, first - 1, last - 1)  # type: ignore[arg-type]  # a name of the three
    return None


_ROLE = "trainingSegmentations"


def chosenSegmentations(node: Any) -> tuple[Any, ...]:
    """The segmentation nodes to learn from."""
    store = node.parameterNode
    found = (store.GetNthNodeReference(_ROLE, index) for index in range(store.GetNumberOfNodeReferences(_ROLE)))
    return tuple(segmentation for segmentation in found if segmentation is not None)


def chooseSegmentation(node: Any, segmentation: Any, chosen: bool) -> None:
    """Add a segmentation, or take it away."""
    store = node.parameterNode
    for index in reversed(range(store.GetNumberOfNodeReferences(_ROLE))):
        if store.GetNthNodeReferenceID(_ROLE, index) == segmentation.GetID():
            store.RemoveNthNodeReferenceID(_ROLE, index)
    if chosen:
        store.AddNodeReferenceID(_ROLE, segmentation.GetID())


def omittedClasses(node: Any) -> tuple[str, ...]:
    """Names of the classes that are not to be learned."""
    try:
        return tuple(str(name) for name in json.loads(node.trainingOmittedClasses))
    except (ValueError, TypeError):
        return ()


def omitClass(node: Any, name: str, omitted: bool) -> None:
    """Leave a class out, or take it in again."""
    others = [other for other in omittedClasses(node) if other != name]
    node.trainingOmittedClasses = json.dumps([*others, *([name] if omitted else [])])


def requestOf(node: Any, classes: Sequence[str]) -> TrainingRequest:
    """What to train, as chosen.

    Args:
        classes: those that the chosen data show.
    """
    omitted = omittedClasses(node)
    learned = tuple(name for name in classes if name not in omitted)
    return TrainingRequest(
        name=node.trainingName.strip(),
        segmentations=chosenSegmentations(node),
        folder=node.trainingFolder,
        classes=learned if len(learned) < len(classes) else None,
        preset=node.trainingPreset,
        model=node.trainingModel,
        epochs=node.trainingEpochs,
        device=node.trainingDevice,
        unlabelled=node.trainingUnlabelled,
    )
