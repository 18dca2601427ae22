"""Networks, the images that they look at, and their activations: computed once, and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.activations import Layers, Observer
from repsim.attacks import Attack, make_attack, run_attack
from repsim.data import Dataset, load_data
from repsim.explorer.setting import Setting, network_text
from repsim.measures.representation import Memory, Representation, represent
from repsim.studies.inversion import InversionOptions, InversionRecipe, InvertedSet, Pairs, find_inverted
from repsim.training import zoo
from repsim.training.model_store import TrainedModel, find

STOPS = 13  # of the slider of ε, which goes to one and a half times the greatest ε of training
FOR_STANDARD = 8 / 255
L2_FOR_LINF = 10.0  # digits are trained at 0.2 and at 2
PAIRS = 250  # of the committed inverted sets
BYTES = 2**30  # of what networks make of images, and of what measures derive from it
SMALL = 1000  # tables and numbers that are kept
PREPARED = 128  # values of layers in double precision that are kept


class CachedInputs:
    """Networks, what they look at and what they make of it; whatever settings have in common is made once.

    Parameters
    ----------
    images
        How many test images networks are compared on.
    layers
        Of each network, whatever one of these selects: `all`, `blocks`, names, a fraction of all.
    attack_steps
        Of an attack that takes several.
    shown
        Nearest neighbours that are shown.
    architectures, epsilons
        Networks there are to choose from; by default, the committed ones of each data set.
    models
        Networks to choose from instead, whatever the data set.
    training
        Fields of `Recipe` that they were trained with.
    sizes
        Of `load_data`: `root`, `train_size`, `test_size`, `image_size`.
    """

    def __init__(
        self,
        *,
        images: int = 128,
        layers: Sequence[Layers] = ("blocks", 0.3),
        attack_steps: int = 10,
        shown: int = 5,
        architectures: Sequence[str] = (),
        epsilons: Sequence[float] = (),
        models: Sequence[TrainedModel] = (),
        training: Mapping[str, object] | None = None,
        sizes: Mapping[str, object] | None = None,
        device: str = "auto",
    ):
        self.images = images
        self.layers = list(layers)
        self.attack_steps = attack_steps
        self.shown = shown
        self._architectures, self._epsilons, self._models = list(architectures), list(epsilons), list(models)
        self._training, self._sizes, self._device = dict(training or {}), dict(sizes or {}), device
        self._small: OrderedDict[tuple, object] = OrderedDict()
        self._prepared: OrderedDict[tuple, object] = OrderedDict()
        self._seen = Memory(BYTES)
        self._derived = Memory(BYTES)

    def _keep(self, key: tuple, make: Callable[[], object]) -> object:
        return _kept(self._small, SMALL, key, make)

    # -- what there is to choose from -----------------------------------------------------------------------

    def dataset(self, name: str) -> Dataset:
        """A data set by its name."""
        return self._keep(("dataset", name), lambda: load_data(name, **self._sizes))

    def networks(self, dataset: str) -> dict[str, tuple[str, float]]:
        """Text → architecture and training ε of the networks that there are of a data set."""
        if self._models:
            there = ((each.recipe.architecture, each.recipe.epsilon) for each in self._models)
            return {network_text(*kind): kind for kind in there}
        kinds = self._architectures or self._keep(
            ("architectures", dataset), lambda: zoo.shared_architectures([dataset])
        )
        levels = self._levels(dataset)
        return {network_text(kind, level): (kind, level) for kind in kinds for level in levels}

    def epsilons(self, dataset: str, norm: str) -> list[float]:
        """Stops of the slider of ε."""
        most = 1.5 * (max(self._levels(dataset)) or FOR_STANDARD)  # where no network is robust
        most *= L2_FOR_LINF if norm == "l2" else 1
        return [float(f"{stop:.4g}") for stop in np.linspace(0, most, STOPS)]

    def _levels(self, dataset: str) -> list[float]:
        if self._models:
            return zoo.epsilons_of(self._models)
        return self._epsilons or self._keep(("levels", dataset), lambda: zoo.committed_epsilons(dataset))

    def model(self, setting: Setting, side: str) -> TrainedModel:
        """The network of one side, `a` or `b`.

        Raises
        ------
        ValueError
            It is not in the store.
        DamagedArtifact
            Its files are not what they should be.
        """
        kind, level = (getattr(setting, f"{name}_{side}") for name in ("architecture", "trained"))
        key = ("model", setting.dataset, kind, level, setting.seed)
        return self._keep(key, lambda: self._find(setting, kind, level))

    def _find(self, setting: Setting, kind: str, level: float) -> TrainedModel:
        for each in self._models:
            if (each.recipe.architecture, each.recipe.epsilon, each.recipe.seed) == (
                kind,
                level,
                setting.seed,
            ):
                return each
        data, found = self.dataset(setting.dataset), None
        if not self._models:
            (recipe,) = zoo.recipes(data, [kind], [level], [setting.seed], **self._training)
            found = find(recipe, self._device)
        if found is None:
            hint = "" if self._models else ", or train it with notebook 00"
            raise ValueError(
                f"{network_text(kind, level)}, seed {setting.seed}, is not in the store of {data.title}: "
                f"choose another{hint}."
            )
        return found

    # -- what networks look at ------------------------------------------------------------------------------

    def _pairs(self, dataset: str) -> Pairs:
        data = self.dataset(dataset)
        return self._keep(("pairs", dataset), lambda: Pairs.draw(data, min(PAIRS, len(data.test) // 2)))

    def natural(self, dataset: str) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"]]:
        """Test images and their labels: the targets of the committed inverted sets."""

        def take() -> tuple[Tensor, Tensor]:
            split, pairs, rows = self.dataset(dataset).test, self._pairs(dataset), slice(self.images)
            return pairs.targets(split)[rows], split.labels[pairs.target_index][rows]

        return self._keep(("natural", dataset), take)

    def attack(self, setting: Setting) -> Attack:
        """The attack of a setting, with our number of steps."""
        attack = make_attack(setting.attack, setting.epsilon, setting.norm)
        if attack.steps == 1:
            return attack
        return Attack(attack.epsilon, setting.norm, self.attack_steps)

    def adversarial(self, setting: Setting, side: str) -> Float[Tensor, "n c h w"]:
        """The images as they fool the network of one side."""
        images, labels = self.natural(setting.dataset)
        attack, model = self.attack(setting), self.model(setting, side)
        if not attack.epsilon:
            return images
        key = ("adversarial", setting.dataset, model.weights, attack)
        return self._seen.recall(key, lambda: run_attack(model.network, images, labels, attack))

    def inverted(self, setting: Setting, side: str) -> Float[Tensor, "n c h w"] | None:
        """The images inverted through the network of one side; None where the store has no such set."""
        found = self._inverted_set(setting, side)
        return None if found is None else found.images[: self.images]

    def _inverted_set(self, setting: Setting, side: str) -> InvertedSet | None:
        options = InversionOptions(iterations=300)
        recipe = InversionRecipe.of(
            self.model(setting, side), self._pairs(setting.dataset), "penultimate", options
        )
        found = self._small.get(("inverted", recipe.address)) or find_inverted(
            recipe
        )  # there may be one by now
        return found and self._keep(("inverted", recipe.address), lambda: found)

    def looked_at(self, setting: Setting, side: str) -> tuple[tuple, Float[Tensor, "n c h w"]]:
        """The images that the network of one side looks at, and what tells them from others.

        Raises
        ------
        ValueError
            There are no images inverted through the first network.
        """
        if setting.inputs == "adversarial" and setting.epsilon:
            made = ("adversarial", self.model(setting, side).weights, self.attack(setting))
            return made, self.adversarial(setting, side)
        if setting.inputs == "inverted":
            images = self.inverted(setting, "a")
            if images is None:
                name = network_text(setting.architecture_a, setting.trained_a)
                raise ValueError(
                    f"no images inverted through {name}, seed {setting.seed}, are in the store: choose other "
                    "inputs, or make them with notebook 03."
                )
            return ("inverted", self.model(setting, "a").weights), images
        return ("natural",), self.natural(setting.dataset)[0]

    # -- what networks make of it ---------------------------------------------------------------------------

    def layers_of(self, setting: Setting, side: str) -> list[str]:
        """The layers that are compared, of the network of one side, in its order."""
        return self._layers(self.model(setting, side))

    def _layers(self, model: TrainedModel) -> list[str]:
        def select() -> list[str]:
            chosen = {name for each in self.layers for name in model.graph.select(each)}
            return [name for name in model.graph.select("all") if name in chosen]

        return self._keep(("layers", model.weights), select)

    def _observer(self, model: TrainedModel) -> Observer:
        return self._keep(("observer", model.weights), lambda: Observer(model.graph, self._layers(model)))

    def _values(
        self, setting: Setting, side: str, made: tuple, images: Float[Tensor, "n c h w"]
    ) -> tuple[Tensor, ...]:
        """Logits, and the values of all layers."""
        model = self.model(setting, side)

        def look() -> tuple[Tensor, ...]:
            found = self._observer(model).observe(images)
            return (found.logits, *found.values.values())

        return self._seen.recall(("values", setting.dataset, model.weights, *made), look)

    def _representation(self, setting: Setting, side: str, layer: str, made: tuple, images) -> Representation:
        model, place = self.model(setting, side), self.layers_of(setting, side).index(layer)

        def make() -> Representation:
            values = self._values(setting, side, made, images)[1 + place]
            return represent(
                values, layer, pool=False, dtype=torch.float64, device=None, memory=self._derived
            )

        return _kept(self._prepared, PREPARED, (setting.dataset, model.weights, layer, *made), make)


def _kept(there: OrderedDict[tuple, object], limit: int, key: tuple, make: Callable[[], object]) -> object:
    """The value under a key, made if it is not there; the least recently used beyond the limit go."""
    if key not in there:
        there[key] = make()
        while len(there) > limit:
            there.popitem(last=False)
    there.move_to_end(key)
    return there[key]
