"""The user's choices for training, as the parameter node keeps them, and the request that they make.

trainingOmittedClasses is a JSON list: classes are learned unless their tick was taken away. trainingModel empty and
trainingEpochs 0 leave it to the recipe. trainingRunsFolder empty means the default one; trainingRun is the run shown.
"""

import json
from collections.abc import Sequence
from typing import Any

from RWKVUNetSegmentLib.Training.TrainingLogic import TrainingRequest

_ROLE = "trainingSegmentations"


def chosenSegmentations(node: Any) -> tuple[Any, ...]:
    """The segmentation nodes to learn from."""
    store = node.parameterNode
    found = (store.GetNthNodeReference(_ROLE, index) for index in range(store.GetNumberOfNodeReferences(_ROLE)))
    return tuple(one for one in found if one is not None)


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
    others = [one for one in omittedClasses(node) if one != name]
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
