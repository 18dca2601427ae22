"""The results of any setting of the explorer, view by view."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from repsim.explorer.cached_inputs import CachedInputs
from repsim.explorer.setting import Results, Setting
from repsim.measures import find_measure
from repsim.measures.comparing import row_of
from repsim.measures.representation import Representation
from repsim.studies.stitching import Stitch, StitchOptions
from repsim.studies.stitching.experiments import fitting_method
from repsim.studies.stitching.store import stored_stitches
from repsim.support import paths
from repsim.training.model_store import TrainedModel

Step = Callable[[], None]


class Backend(CachedInputs):
    """Computes results of settings; whatever several settings have in common is computed once."""

    def complete(self, setting: Setting) -> Setting:
        """The setting with layers that both networks have, and an image that there is."""
        chosen = {}
        for side in ("a", "b"):
            layers = self.layers_of(setting, side)
            wanted = getattr(setting, f"layer_{side}")
            chosen[f"layer_{side}"] = wanted if wanted in layers else layers[-1]
        count = len(self.natural(setting.dataset)[0])
        return setting.but(**chosen, image=min(max(setting.image, 0), count - 1))

    def partial_results(self, setting: Setting, step: Step = lambda: None) -> Iterator[Results]:
        """Yield the results of a setting as they fill, view by view, the quickest first.

        What cannot be shown leaves a note; the other views are there.

        Parameters
        ----------
        step
            Called now and then; what it raises ends the work, and loses no more than the view at hand.
        """
        setting = self.complete(setting)
        results = Results(setting, (self.layers_of(setting, "a"), self.layers_of(setting, "b")))
        for fill in (
            self._show_pictures,
            self._show_answers,
            self._show_map,
            self._show_curve,
            self._show_neighbors,
            self._show_stitched,
        ):
            step()
            try:
                fill(results, step)
            except ValueError as error:
                _note(results, [str(error)])
            yield results

    def results(self, setting: Setting) -> Results:
        """Compute all results of a setting."""
        *_, last = self.partial_results(setting)
        return last

    def _show_pictures(self, results: Results, step: Step) -> None:
        setting, i = results.setting, results.setting.image
        images, labels = self.natural(setting.dataset)
        results.true = self.dataset(setting.dataset).classes[int(labels[i])]
        pictures = {"natural": images[i]}
        for side in ("a", "b"):
            step()
            attacked = self.adversarial(setting, side)[i]
            pictures[f"fools {side.upper()}"] = attacked
            change = attacked - images[i]
            scale = float(change.abs().max()) or 1.0
            pictures[f"change, {side.upper()}"] = 0.5 + change / (2 * scale)
        for side in ("a", "b"):
            if (inverted := self.inverted(setting, side)) is not None:
                pictures[f"inverted, {side.upper()}"] = inverted[i]
        results.pictures = pictures

    def _show_answers(self, results: Results, step: Step) -> None:
        setting = results.setting
        classes = self.dataset(setting.dataset).classes
        parts = []
        for side in ("a", "b"):
            step()
            logits = self._values(setting, side, *self.looked_at(setting, side))[0][setting.image]
            rows = {"class": classes, "probability": logits.double().softmax(0).numpy()}
            parts.append(pd.DataFrame(rows).assign(network=side.upper()))
        results.answers = pd.concat(parts, ignore_index=True)[["network", "class", "probability"]]

    def _show_map(self, results: Results, step: Step) -> None:
        setting = results.setting
        seen = [self.looked_at(setting, side) for side in ("a", "b")]
        models = [self.model(setting, side).weights for side in ("a", "b")]
        key = ("map", setting.dataset, setting.measure, *models, *(made for made, _ in seen))

        def make() -> tuple[pd.DataFrame, list[str]]:
            sides = [
                [self._representation(setting, side, layer, *what) for layer in layers]
                for side, layers, what in zip(("a", "b"), results.layers, seen, strict=True)
            ]
            rows, notes = [], []
            for x in sides[0]:
                step()
                rows.append(_values_of(setting.measure, [(x, y) for y in sides[1]], notes))
            return pd.DataFrame(rows, index=results.layers[0], columns=results.layers[1]), notes

        results.map, notes = self._keep(key, make)
        _note(results, notes)

    def _show_curve(self, results: Results, step: Step) -> None:
        setting = results.setting
        attacked = setting.but(inputs="adversarial")
        natural = setting.but(inputs="natural")
        parts = []
        for side, layers in zip(("a", "b"), results.layers, strict=True):
            step()
            model = self.model(setting, side)
            both = [self.looked_at(each, side) for each in (natural, attacked)]
            key = ("curve", setting.dataset, setting.measure, model.weights, both[1][0])

            def make(side=side, layers=layers, both=both) -> tuple[list[float], list[str]]:
                notes: list[str] = []
                pairs = [
                    tuple(self._representation(setting, side, layer, *what) for what in both)
                    for layer in layers
                ]
                return _values_of(setting.measure, pairs, notes), notes

            values, notes = self._keep(key, make)
            _note(results, notes)
            rows = {"layer": layers, "depth": np.linspace(0, 1, len(layers)), "value": values}
            parts.append(pd.DataFrame(rows).assign(network=side.upper()))
        results.curve = pd.concat(parts, ignore_index=True)[["network", "layer", "depth", "value"]]

    def _show_neighbors(self, results: Results, step: Step) -> None:
        """Show the neighbours of the image, by the cosine of values about their mean."""
        setting, found = results.setting, {}
        for side in ("a", "b"):
            step()
            layer = getattr(setting, f"layer_{side}")
            x = self._representation(setting, side, layer, *self.looked_at(setting, side)).values
            unit = torch.nn.functional.normalize(x - x.mean(0), dim=1)
            near = unit @ unit[setting.image]
            near[setting.image] = -torch.inf
            count = min(self.shown, len(near) - 1)
            found[side.upper()] = near.argsort(descending=True)[:count].tolist()
        results.neighbors = found

    def _show_stitched(self, results: Results, step: Step) -> None:
        step()
        setting = results.setting
        slug = self.dataset(setting.dataset).slug
        folders = [folder / slug for folder in paths.stitches()]
        changed = tuple(folder.stat().st_mtime_ns for folder in folders if folder.exists())
        stored = self._keep(("stitches", slug, *changed), lambda: stored_stitches(slug))
        front, end = (self.model(setting, side) for side in ("a", "b"))
        chosen = [stitch for stitch in stored if _joins(stitch, front, end, setting)]
        rows = [
            {
                "fitting_method": _whole_method(stitch.recipe.options),
                "clean": measured.get("accuracy", math.nan),
                "robust": measured.get("robust_accuracy", math.nan),
            }
            for stitch in chosen
            for measured in stitch.record["measured"]
            if not measured["truncated_to"]
        ]
        results.stitched = pd.DataFrame(
            sorted(rows, key=lambda row: row["fitting_method"]), columns=["fitting_method", "clean", "robust"]
        )

    def ahead(self, setting: Setting, step: Step = lambda: None) -> None:
        """Compute what the sliders of ε, of the image and of the layers will show, the nearest ε first."""
        stops = self.epsilons(setting.dataset, setting.norm)
        for epsilon in sorted(stops, key=lambda stop: abs(stop - setting.epsilon)):
            self._fill(setting.but(epsilon=epsilon), step)

    def _fill(self, setting: Setting, step: Step) -> None:
        for _ in self.partial_results(setting, step):
            pass


def _joins(stitch: Stitch, front: TrainedModel, end: TrainedModel, setting: Setting) -> bool:
    recipe = stitch.recipe
    donors = recipe.front, recipe.front_weights, recipe.end, recipe.end_weights
    layers = recipe.layer_front, recipe.layer_end
    return (donors, layers) == (
        (front.name, front.weights, end.name, end.weights),
        (setting.layer_a, setting.layer_b),
    )


def _whole_method(options: StitchOptions) -> str:
    """Tell fitting methods apart as notebook 02 does, and within them by what else it varies."""
    parts = [fitting_method(options)]
    if options.rank:
        parts.append(f"rank {options.rank}")
    if options.attack is not None and options.attacked != "stitched":
        parts.append(f"attacked: {options.attacked}")
    if options.initial == "random" and not options.is_direct:
        parts.append(f"random start, learning rate {options.learning_rate:g}")
    if options.update_batchnorm:
        parts.append("BatchNorm updated")
    return ", ".join(parts)


def _values_of(
    measure: str, pairs: Sequence[tuple[Representation, Representation]], notes: list[str]
) -> list[float]:
    """A measure of each pair; where it is not defined, NaN, and why."""
    rows = [row_of(find_measure(measure), x, y, True) for x, y in pairs]
    notes += [f"{measure}: {row['note']}" for row in rows if math.isnan(row["value"])]
    return [row["value"] for row in rows]


def _note(results: Results, notes: Sequence[str]) -> None:
    results.notes += [note for note in dict.fromkeys(notes) if note not in results.notes]
