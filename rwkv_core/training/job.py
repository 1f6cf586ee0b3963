"""What a run is asked to do: a data set, a recipe, and the name of the model that comes out. Kept in config.json."""

from dataclasses import dataclass
from typing import Any

from rwkv_core.errors import InputError
from rwkv_core.training.recipe import Recipe, checked_recipe


@dataclass(frozen=True)
class Job:
    """What config.json holds.

    Attributes:
        dataset: its path.
        name: id of the model.
        unlabelled: path of the images for the consistency loss.
    """

    dataset: str
    name: str
    recipe: Recipe
    unlabelled: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "name": self.name,
            "dataset": self.dataset,
            "unlabelled": self.unlabelled,
            "recipe": self.recipe.model_dump(mode="json"),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any], source: str) -> "Job":
        """Raises InputError when it is not such a description."""
        try:
            recipe = checked_recipe(content["recipe"], source)
            return cls(content["dataset"], content["name"], recipe, content.get("unlabelled"))
        except KeyError as error:
            raise InputError(f"{source} lacks {error}.") from None
