"""The bench starts, and loads the sample scan."""

from pathlib import Path

SAMPLE = Path(__file__).parents[2] / "rwkv_core" / "sample" / "ch2.nii.gz"


def test_volume_is_shown_and_survives_the_scene_file(slicer_app, tmp_path):
    import slicer

    volume = slicer.util.loadVolume(str(SAMPLE))
    assert (
        slicer_app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode().GetBackgroundVolumeID() == volume.GetID()
    )
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert slicer.util.getNode("ch2").GetImageData().GetDimensions() == (181, 217, 181)
