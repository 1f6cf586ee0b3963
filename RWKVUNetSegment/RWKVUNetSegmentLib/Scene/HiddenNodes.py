"""Nodes that are not the user's: in no saved scene, and most in no selector and no subject hierarchy either."""

from typing import Any

import slicer


def addHiddenNode(className: str, name: str, attribute: str) -> Any:
    """Add a node that no selector offers; else as `addUnsavedNode`."""
    return addUnsavedNode(className, name, attribute, hidden=True)


def addUnsavedNode(className: str, name: str, attribute: str, hidden: bool = False) -> Any:
    """Add a node that no scene file gets, with its display node where it has one.

    Args:
        attribute: name of an attribute that tells what it is.
        hidden: from selectors and the subject hierarchy. It is so before it is added: Slicer's subject hierarchy looks
            at that moment, and not later.
    """
    scene = slicer.mrmlScene
    node = scene.CreateNodeByClass(className)
    node.UnRegister(None)
    node.SetName(scene.GenerateUniqueName(name))
    node.SetAttribute(attribute, "1")
    if hidden:
        node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    node = scene.AddNode(node)
    if node.IsA("vtkMRMLDisplayableNode"):
        node.CreateDefaultDisplayNodes()
        if node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetSaveWithScene(False)
    return node
