"""A run's curves in the scene: a table of its figures, and charts of losses and Dice, brought up to date in place."""

import math
from collections.abc import Sequence
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

_RUN = "RWKVUNetSegment.Run"
"""Attribute of the nodes: folder of the run that they show. So a saved scene's nodes are found again."""

_PART = "RWKVUNetSegment.RunPart"
_LOSS, _DICE = "loss", "dice"
_CLASS = "dice_"

_BLUE, _ORANGE, _BLACK = (0.12, 0.47, 0.71), (1.0, 0.5, 0.05), (0.1, 0.1, 0.1)
_CLASS_COLORS = (
    (0.17, 0.63, 0.17), (0.84, 0.15, 0.16), (0.58, 0.4, 0.74), (0.55, 0.34, 0.29), (0.89, 0.47, 0.76),
    (0.5, 0.5, 0.5), (0.74, 0.74, 0.13), (0.09, 0.75, 0.81),
)  # fmt: skip


class TrainingRunNodes:
    """The nodes of one run; made by the first `update` that has figures.

    Args:
        folder: of the run.
        name: for people.
    """

    def __init__(self, folder: str, name: str):
        self._folder, self._name = folder, name

    @property
    def table(self) -> Any:
        """vtkMRMLTableNode: a row per epoch; None before the first epoch."""
        return self._find("vtkMRMLTableNode", "table")

    @property
    def lossChart(self) -> Any:
        """vtkMRMLPlotChartNode with training and validation loss; None before the first epoch."""
        return self._find("vtkMRMLPlotChartNode", _LOSS)

    @property
    def diceChart(self) -> Any:
        """vtkMRMLPlotChartNode with validation Dice, mean and per class; None where the run has no validation."""
        return self._find("vtkMRMLPlotChartNode", _DICE)

    def update(self, rows: Sequence[dict[str, float]]) -> None:
        """Show these rows of metrics.csv. Nodes that the user deleted come again."""
        if not rows:
            return
        columns = list(dict.fromkeys(name for row in rows for name in row))
        table = self.table or self._add("vtkMRMLTableNode", "table", _("{name} metrics").format(name=self._name))
        wasModifying = table.StartModify()
        self._fill(table.GetTable(), rows, columns)
        table.EndModify(wasModifying)
        table.Modified()
        losses = [(name, title, color) for name, title, color in (
            ("loss", _("training"), _BLUE), ("validation_loss", _("validation"), _ORANGE)
        ) if name in columns]  # fmt: skip
        self._chart(_LOSS, _("{name}: loss").format(name=self._name), _("Loss"), table, losses)
        if "validation_dice" in columns:
            classes = [name for name in columns if name.startswith(_CLASS)]
            series = [("validation_dice", _("mean"), _BLACK)]
            for number, name in enumerate(classes):
                series.append((name, name.removeprefix(_CLASS), _CLASS_COLORS[number % len(_CLASS_COLORS)]))
            self._chart(_DICE, _("{name}: Dice").format(name=self._name), _("Validation Dice"), table, series)

    def show(self) -> None:
        """Show the curves in a plot view: Dice where there is validation, else the losses."""
        chart = self.diceChart or self.lossChart
        if chart is not None:
            slicer.modules.plots.logic().ShowChartInLayout(chart)

    @staticmethod
    def _fill(content: Any, rows: Sequence[dict[str, float]], columns: Sequence[str]) -> None:
        """Into the table's own arrays, so that whoever observes them goes on doing so."""
        for name in columns:
            array = content.GetColumnByName(name)
            new = array is None
            if new:
                array = vtk.vtkDoubleArray()
                array.SetName(name)
            array.SetNumberOfValues(len(rows))
            for index, row in enumerate(rows):
                array.SetValue(index, row.get(name, math.nan))
            array.Modified()
            if new:
                content.AddColumn(array)
        content.Modified()

    def _chart(self, part: str, title: str, axis: str, table: Any, series: Sequence[tuple[str, str, Any]]) -> None:
        chart = self._find("vtkMRMLPlotChartNode", part)
        if chart is None:
            chart = self._add("vtkMRMLPlotChartNode", part, title)
            chart.SetTitle(title)
            chart.SetXAxisTitle(_("Epoch"))
            chart.SetYAxisTitle(axis)
        for column, name, color in series:
            key = f"{part} {column}"
            node = self._find("vtkMRMLPlotSeriesNode", key)
            if node is None:
                node = self._add("vtkMRMLPlotSeriesNode", key, name)
                node.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
                node.SetXColumnName("epoch")
                node.SetYColumnName(column)
                node.SetColor(*color)
                node.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
                node.SetLineWidth(3.0 if column == "validation_dice" else 1.5)
            if node.GetTableNodeID() != table.GetID():
                node.SetAndObserveTableNodeID(table.GetID())
            if not chart.HasNodeReferenceID(chart.GetPlotSeriesNodeReferenceRole(), node.GetID()):
                chart.AddAndObservePlotSeriesNodeID(node.GetID())

    def _find(self, className: str, part: str) -> Any:
        for node in slicer.util.getNodesByClass(className):
            if node.GetAttribute(_RUN) == self._folder and node.GetAttribute(_PART) == part:
                return node
        return None

    def _add(self, className: str, part: str, name: str) -> Any:
        node = slicer.mrmlScene.AddNewNodeByClass(className, slicer.mrmlScene.GenerateUniqueName(name))
        node.SetAttribute(_RUN, self._folder)
        node.SetAttribute(_PART, part)
        return node
