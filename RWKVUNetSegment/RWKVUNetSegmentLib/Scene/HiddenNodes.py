"""Nodes that are not the user's: in no selector, no subject hierarchy, no saved scene."""

from typing import Any

import slicer


def addHiddenNode(className: str, name: str, attribute: str) -> Any:
    """A new node in the scene, with its display node where it has one.

    It is hidden before it is added: Slicer's subject hierarchy looks at that moment, and not later.

    Args:
        attribute: name of an attribute that tells what it is.
    """
    scene = slicer.mrmlScene
    node = scene.CreateNodeByClass(className)
    node.UnRegister(None)
    node.SetName(scene.GenerateUniqueName(name))
    node.SetAttribute(attribute, "1")
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    node = scene.AddNode(node)
    if node.IsA("vtkMRMLDisplayableNode"):
        node.CreateDefaultDisplayNodes()
        if node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetSaveWithScene(False)
    return node
