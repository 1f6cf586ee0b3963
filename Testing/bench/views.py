"""Pictures: slice and 3-D views drawn by Slicer's real displayable managers (EGL or Mesa, no display needed), widgets
by Qt."""

import os
import sys

import slicer
import vtk
from bench.event_loop import process_events
from vtk.util.numpy_support import vtk_to_numpy

if sys.platform.startswith("linux"):
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")  # renders with and without a display

SLICE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
)
THREED_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLThreeDReformatDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
)


class RenderedView:
    """An off-screen window with the displayable managers of one view node; `pixels()` renders it."""

    def __init__(self, node, factory, managers, size):
        self.node = node
        self.window, self.renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.Initialize()
        instance = factory.GetInstance()
        instance.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for name in managers:
            if not instance.IsDisplayableManagerRegistered(name):
                instance.RegisterDisplayableManager(name)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.Initialize(instance, self.renderer)
        self.group.SetMRMLDisplayableNode(node)

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

    def write(self, path):
        pixels = self.pixels()
        from PySide6 import QtGui

        rows, columns, _ = pixels.shape
        picture = QtGui.QImage(pixels.tobytes(), columns, rows, 3 * columns, QtGui.QImage.Format.Format_RGB888)
        if not picture.save(str(path)):
            raise OSError(f"Cannot write {path}")
        return pixels

    def close(self):
        self.group.SetMRMLDisplayableNode(None)
        self.window.Finalize()


class SliceView(RenderedView):
    """One slice of the volumes that the slice logic's composite node names, segmentations and markups over it."""

    def __init__(self, logic, size):
        self.logic = logic
        node = logic.GetSliceNode()
        node.SetDimensions(size[0], size[1], 1)
        super().__init__(node, slicer.vtkMRMLSliceViewDisplayableManagerFactory, SLICE_MANAGERS, size)
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        mapper, self._actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(logic.GetImageDataConnection())
        self._actor.SetMapper(mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._mapper = mapper

    def pixels(self):
        connection = self.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        self.renderer.RemoveViewProp(self._actor)
        if connection is not None:  # none where no volume is shown
            self.renderer.AddViewProp(self._actor)
        return super().pixels()


class ThreeDView(RenderedView):
    """The scene's surfaces and markups from the view's camera."""

    def __init__(self, node, size):
        super().__init__(node, slicer.vtkMRMLThreeDViewDisplayableManagerFactory, THREED_MANAGERS, size)
        self.renderer.SetGradientBackground(1)
        self.renderer.SetBackground(node.GetBackgroundColor())
        self.renderer.SetBackground2(node.GetBackgroundColor2())

    def focus(self):
        self.renderer.ResetCamera()
        self.renderer.ResetCameraClippingRange()


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
        return view.write(path)
    finally:
        view.close()


def threed_png(path, size=(400, 400), azimuth=0.0, elevation=0.0):
    """Writes the 3-D view, the camera turned by these angles in degrees; returns the pixels."""
    view = ThreeDView(slicer.app.layoutManager().threeDWidget(0).mrmlViewNode(), size)
    view.focus()
    camera = view.renderer.GetActiveCamera()
    camera.Azimuth(azimuth)
    camera.Elevation(elevation)
    camera.OrthogonalizeViewUp()
    view.focus()
    try:
        return view.write(path)
    finally:
        view.close()


def grab(widget, path, size=None):
    """Writes a picture of the widget; `size` in pixels, else its preferred one."""
    widget.resize(*(size or (max(400, widget.sizeHint().width()), widget.sizeHint().height())))
    wasVisible = widget.visible
    widget.show()
    process_events()
    if not widget.grab().save(str(path)):
        raise OSError(f"Cannot write {path}")
    if not wasVisible:
        widget.hide()
