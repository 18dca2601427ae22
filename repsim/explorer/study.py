"""Everything that notebook 07 needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from repsim.activations import Layers
from repsim.attacks import parse_epsilon
from repsim.explorer.backend import Backend
from repsim.explorer.controls import Explorer
from repsim.explorer.setting import Setting
from repsim.training import Recipe
from repsim.training.loading import describe, load_models
from repsim.training.model_store import TrainedModel
from repsim.training.study import Study
from repsim.training.zoo import NetworkSet


@dataclass(kw_only=True, eq=False)
class ExplorerStudy(Study):
    """Two networks that are there, at one setting; see `Setting` and `Backend` for the rest of the fields.

    `norm` is that of the attack.
    """

    trains: ClassVar[bool] = False

    architecture_a: str
    trained_a: str
    architecture_b: str
    trained_b: str
    seed: int = 0
    measure: str = "cka"
    layer_a: str = ""
    layer_b: str = ""
    attack: str = "pgd"
    epsilon: str = "0.1"
    inputs: str = "natural"
    image: int = 0
    others: Sequence[str] = ()
    architectures: Sequence[str] = ()
    epsilons: Sequence[str] = ()
    images: int = 128
    layers: Layers = ("blocks", "0.3")
    attack_steps: int = 10

    @cached_property
    def training_options(self) -> dict[str, object]:
        """Options that networks were trained with, but for the attack."""
        return Recipe.options(self.training)

    def networks(self) -> dict[str, NetworkSet]:
        """The two networks that are looked at first."""
        if self.checkpoints:
            return {self.dataset: NetworkSet(self.data, (), self.checkpoints)}
        sides = {(self.architecture_a, self.trained_a), (self.architecture_b, self.trained_b)}
        sets = [self.network_set([kind], [level], [self.seed]) for kind, level in sorted(sides)]
        return {self.dataset: NetworkSet(self.data, [recipe for each in sets for recipe in each.recipes])}

    def explorer(self) -> Explorer:
        """Make the controls, at the setting that the parameters name; what checkpoints hold is printed."""
        brought: list[TrainedModel] = []
        if self.checkpoints:
            brought = load_models(self.checkpoints, self.data, device=self.device)
            print(describe(brought))
        sizes = {"train_size": self.train_size, "test_size": self.test_size, "image_size": self.image_size}
        backend = Backend(
            images=self.images,
            layers=self.layers,
            attack_steps=self.attack_steps,
            architectures=self.architectures,
            epsilons=[parse_epsilon(each) for each in self.epsilons],
            models=brought,
            training=self.training_options,
            sizes={"root": self.data_root, **sizes},
            device=self.device,
        )
        offered = [self.dataset, *([] if brought else self.others)]
        return Explorer(self._setting(brought), backend, datasets=offered)

    def _setting(self, brought: Sequence[TrainedModel]) -> Setting:
        a, b = (self.architecture_a, self.trained_a), (self.architecture_b, self.trained_b)
        if brought:
            a, b = ((each.architecture, each.epsilon) for each in (brought[0].recipe, brought[-1].recipe))
        return Setting(
            dataset=self.dataset,
            architecture_a=a[0],
            trained_a=parse_epsilon(a[1]),
            architecture_b=b[0],
            trained_b=parse_epsilon(b[1]),
            seed=self.seed,
            measure=self.measure,
            layer_a=self.layer_a,
            layer_b=self.layer_b,
            attack=self.attack,
            norm=self.norm,
            epsilon=parse_epsilon(self.epsilon),
            inputs=self.inputs,
            image=self.image,
        )
