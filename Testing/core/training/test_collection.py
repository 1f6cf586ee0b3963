"""Several data sets as one, and some classes of a data set."""

import json

import numpy as np
import pytest

from rwkv_core.cli import main
from rwkv_core.errors import InputError
from rwkv_core.training.datasets import open_dataset
from rwkv_core.training.datasets.checking import check_dataset

from core.training.data_sets import BALL, BOX, nnunet


def collection(folder, parts, classes=None):
    path = folder / "collection.json"
    content = {"collection": parts} | ({} if classes is None else {"classes": classes})
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def parts(tmp_path):
    """Two data sets whose values mean opposite things."""
    nnunet(tmp_path / "one", cases=2)
    nnunet(tmp_path / "two", cases=1, names=("box", "Ball"))
    return tmp_path


def test_classes_are_matched_by_name(parts):
    data = open_dataset(collection(parts, ["one", str(parts / "two")]))
    assert [(entry.value, entry.name) for entry in data.classes] == [(1, "Ball"), (2, "Box")]
    assert [case.id for case in data.cases] == ["one-case0", "case1", "two-case0"]
    first, second = (data.read(data.cases[n]).label for n in (0, 2))
    assert np.array_equal(first == BALL, second == BOX) and np.array_equal(first == BOX, second == BALL)
    assert not check_dataset(data).findings


def test_classes_that_are_not_named_are_background(parts):
    data = open_dataset(collection(parts, ["one"], ["box"]))
    whole = open_dataset(parts / "one")
    assert [(entry.value, entry.name) for entry in data.classes] == [(1, "Box")]
    assert np.array_equal(data.read(data.cases[0]).label == 1, whole.read(whole.cases[0]).label == BOX)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"collection": ["one"], "classes": ["Liver"]}, "no part has the class Liver. There are: Ball, Box"),
        ({"collection": "one"}, '"collection" must be a list of texts'),
        ({"collection": ["three"]}, "three does not exist"),
    ],
)
def test_what_is_wrong_is_told(parts, content, said):
    path = parts / "collection.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        open_dataset(path)
    assert said in str(error.value)


def test_the_command_lists_the_classes(parts, capsys):
    assert main(["dataset", "classes", str(parts / "one"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cases"], [entry["name"] for entry in found["classes"]]) == (2, ["Ball", "Box"])
    assert main(["dataset", "classes", str(parts / "two")]) == 0
    assert "box" in capsys.readouterr().out
