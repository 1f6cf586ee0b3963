"""Pictures: slice and 3-D views drawn by Slicer's real displayable managers (EGL or Mesa, no display needed), widgets
by Qt."""

import math
import os
import sys
from pathlib import Path

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from bench.event_loop import settle
from bench.pyside import QtGui

if sys.platform.startswith("linux"):
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")  # renders with and without a display

SLICE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
)
THREED_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLThreeDReformatDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager3D",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
)


class RenderedView:
    """An off-screen window with the displayable managers of one view node; `pixels()` renders it."""

    def __init__(self, node, factory, managers, style, size):
        self.node, self.style = node, style
        self.window, self.renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())  # not VTK's own camera; `style` acts below
        self.interactor.EnableRenderOff()  # drawn when somebody looks
        self.interactor.Initialize()
        instance = factory.GetInstance()
        instance.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for name in managers:
            if not instance.IsDisplayableManagerRegistered(name):
                instance.RegisterDisplayableManager(name)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.Initialize(instance, self.renderer)
        self.group.SetMRMLDisplayableNode(node)
        style.SetDisplayableManagers(self.group)
        style.SetInteractor(self.interactor)

    def resize(self, width, height):
        self.window.SetSize(width, height)
        self.interactor.SetSize(width, height)

    def pixels(self):
        """The picture as an array (rows, columns, 3) of bytes, first row on top."""
        self.window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self.window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        image = grabber.GetOutput()
        columns, rows, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[::-1].copy()

    def image(self):
        """The picture as a QImage."""
        pixels = self.pixels()
        rows, columns, _ = pixels.shape
        picture = QtGui.QImage(pixels.tobytes(), columns, rows, 3 * columns, QtGui.QImage.Format.Format_RGB888)
        return picture.copy()  # owns its bytes

    def close(self):
        self.group.SetMRMLDisplayableNode(None)
        self.window.Finalize()


class SliceView(RenderedView):
    """One slice of the volumes that the slice logic's composite node names, segmentations and markups over it."""

    def __init__(self, logic, size):
        self.logic, style = logic, slicer.vtkMRMLSliceViewInteractorStyle()
        style.SetSliceLogic(logic)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory
        super().__init__(logic.GetSliceNode(), factory, SLICE_MANAGERS, style, size)
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        self._mapper, self._actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self.resize(*size)

    def resize(self, width, height):
        super().resize(width, height)
        self.logic.ResizeSliceNode(width, height)

    def pixels(self):
        connection = self.logic.GetImageDataConnection()
        self.renderer.RemoveViewProp(self._actor)
        if connection is not None:  # none where no volume is shown
            self._mapper.SetInputConnection(connection)
            self.renderer.AddViewProp(self._actor)
        return super().pixels()


class ThreeDView(RenderedView):
    """The scene's surfaces and markups from the view's camera."""

    def __init__(self, node, size):
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory
        style = slicer.vtkMRMLThreeDViewInteractorStyle()
        super().__init__(node, factory, THREED_MANAGERS, style, size)
        self.renderer.UseFXAAOn()  # depth peeling leaves no room for multi-sampling
        self.window.SetAlphaBitPlanes(1)
        self.renderer.SetUseDepthPeeling(node.GetUseDepthPeeling())
        self.renderer.SetGradientBackground(1)
        self.renderer.DitherGradientOff()  # its noise makes PNG files large
        self.renderer.SetBackground(node.GetBackgroundColor())
        self.renderer.SetBackground2(node.GetBackgroundColor2())

    def focus(self):
        """Shows everything, as Slicer's Center button does: box and labels do not count, and follow."""
        box, labels = self.node.GetBoxVisible(), self.node.GetAxisLabelsVisible()
        self._decorate(False, False)
        self.renderer.ResetCamera()
        self._decorate(box, labels)
        self.node.InvokeEvent(slicer.vtkMRMLViewNode.ResetFocalPointRequestedEvent)
        self.renderer.ResetCameraClippingRange()

    def _decorate(self, box, labels):
        modifying = self.node.StartModify()
        self.node.SetBoxVisible(box)
        self.node.SetAxisLabelsVisible(labels)
        self.node.EndModify(modifying)

    def lookFrom(self, azimuth, elevation):
        """Looks at what is shown, S on top: from anterior at 0 degrees, from the patient's left at 90; from above."""
        camera = self.renderer.GetActiveCamera()
        turned, raised = math.radians(azimuth), math.radians(elevation)
        direction = (-math.sin(turned) * math.cos(raised), math.cos(turned) * math.cos(raised), math.sin(raised))
        focal, distance = camera.GetFocalPoint(), camera.GetDistance()
        camera.SetPosition([at + distance * step for at, step in zip(focal, direction, strict=True)])
        camera.SetViewUp(0.0, 0.0, 1.0)
        self.focus()


def save(image, path):
    """Writes a QImage; the folder is made where it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not image.save(str(path)):
        raise OSError(f"Cannot write {path}")


def _write(view, path):
    save(view.image(), path)
    return view.pixels()


def slice_png(path, volume=None, orientation="Axial", offset=None, size=(400, 400)):
    """Writes one slice of `volume` (or of what the view shows); `offset` in mm along the slice normal.

    Returns the pixels, (rows, columns, 3) of bytes.
    """
    name = {"Axial": "Red", "Coronal": "Green", "Sagittal": "Yellow"}[orientation]
    logic = slicer.app.layoutManager().sliceWidget(name).sliceLogic()
    view = SliceView(logic, size)
    if volume is not None:
        logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
    logic.FitSliceToBackground()
    if offset is not None:
        logic.SetSliceOffset(offset)
    try:
        return _write(view, path)
    finally:
        view.close()


def threed_png(path, size=(400, 400), azimuth=0.0, elevation=0.0):
    """Writes the 3-D view from this direction, see ThreeDView.lookFrom; the camera stays there. Returns the pixels."""
    view = ThreeDView(slicer.app.layoutManager().threeDWidget(0).mrmlViewNode(), size)
    view.lookFrom(azimuth, elevation)
    try:
        return _write(view, path)
    finally:
        view.close()


def grab(widget, path, size=None):
    """Writes a picture of the widget once it has come to rest; `size` in pixels, else its preferred one."""
    widget.resize(*(size or (max(400, widget.sizeHint().width()), widget.sizeHint().height())))
    wasVisible = widget.visible
    widget.show()
    save(settle(widget), path)
    if not wasVisible:
        widget.hide()
