"""The circumstances under which stitches are measured, and their donors there."""

from __future__ import annotations

from repsim.attacks import Attack
from repsim.data import Dataset
from repsim.studies.stitching.measuring import Donor
from repsim.studies.stitching.recipe import StitchRecipe
from repsim.support import artifacts
from repsim.training.model_store import EVALUATED, TrainedModel, stored_model


class Evaluation:
    """The images and the attack under which stitches are measured; keeps what their donors do there.

    Parameters
    ----------
    dataset
        Stitches are fitted on its training images (see `fitted_on`), and measured on its test images, at
        most 1,000.
    attack
        For robust accuracy and transfer.
    fitted_on
        The data set on which stitches are fitted, when it is another one.
    with_autoattack
        Measure accuracy under AutoAttack too.
    """

    def __init__(
        self,
        dataset: Dataset,
        attack: Attack,
        *,
        fitted_on: Dataset | None = None,
        with_autoattack: bool = False,
        device: str = "auto",
    ):
        self.dataset, self.attack, self.with_autoattack = dataset, attack, with_autoattack
        self.fitted_on = fitted_on or dataset
        self.device = device
        self.split = dataset.test.subset(EVALUATED)
        self._donors: dict[str, tuple[TrainedModel, Donor]] = {}

    def __getstate__(self) -> dict:
        """The state that another process needs: it makes donors of its own."""
        return {**self.__dict__, "_donors": {}}

    @property
    def key(self) -> dict[str, object]:
        """The key that tells measurements under different circumstances apart."""
        return {
            "evaluated_on": self.dataset.slug,
            "evaluated_fingerprint": self.dataset.fingerprint,
            "images": len(self.split),
            "attack_norm": self.attack.norm,
            "attack_epsilon": self.attack.epsilon,
            "attack_steps": self.attack.steps,
            "attack_step_size": self.attack.step_size,
            "attack_random_start": self.attack.random_start,
            "with_autoattack": self.with_autoattack,
        }

    def donor(self, name: str, weights: str) -> Donor:
        """A donor by its name in the store.

        Raises
        ------
        ValueError
            There is none of that name.
        DamagedArtifact
            It has been trained again since the recipe was written.
        """
        if name not in self._donors:
            model = stored_model(name, self.device)
            own_task = model.recipe.dataset == self.dataset.slug
            self._donors[name] = (model, Donor(model.graph, self.split, self.attack, own_task=own_task))
        model, donor = self._donors[name]
        if model.weights != weights:
            raise artifacts.DamagedArtifact(
                f"{name} has other weights ({model.weights}…) than the stitch was made for ({weights}…)."
            )
        return donor


def donors_of(recipe: StitchRecipe, evaluation: Evaluation) -> tuple[Donor, Donor]:
    """The donors of a stitch, as an evaluation keeps them."""
    return (
        evaluation.donor(recipe.front, recipe.front_weights),
        evaluation.donor(recipe.end, recipe.end_weights),
    )
