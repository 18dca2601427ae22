"""The explorer: controls of a setting, and views of it that follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ipywidgets as widgets

from repsim.attacks import epsilon_text
from repsim.explorer import views
from repsim.explorer.backend import Backend
from repsim.explorer.heat_map import HeatMap
from repsim.explorer.latest import Latest
from repsim.explorer.saving import save_results
from repsim.explorer.setting import ATTACK_NAMES, INPUTS, Results, Setting, network_text
from repsim.measures import find_measure
from repsim.training import zoo

MEASURES_SHOWN = (  # quick enough for a slider
    *("cka", "cka_debiased", "cka_rbf", "procrustes_similarity", "rsa"),
    *("jaccard", "mutual_knn", "distance_correlation"),
)
SEEDS = 5
NEEDED = ("map", "curve", "pictures", "answers")  # to save
Step = Callable[[], None]
Values = Mapping[str, object]  # of all controls, by their names


class Explorer:
    """Controls of a setting, and what is to be seen at it; nothing that a control does waits for a result.

    Parameters
    ----------
    setting
        Where the controls stand at first.
    backend
        Makes what is shown.
    datasets, measures
        There are to choose from.

    Attributes
    ----------
    controls
        The widgets that are dragged, by the names of what they set.
    view
        All of it, to be displayed.
    """

    def __init__(
        self,
        setting: Setting | None = None,
        backend: Backend | None = None,
        *,
        datasets: Sequence[str] = ("digits", "shapes"),
        measures: Sequence[str] = MEASURES_SHOWN,
    ):
        self.setting = self.given = setting or Setting()
        self.backend = backend or Backend()
        self.shown: Results | None = None
        self._asked: Values = {}
        datasets = tuple(dict.fromkeys((self.setting.dataset, *datasets)))
        measures = tuple(dict.fromkeys((self.setting.measure, *measures)))
        self.controls = self._make_controls(datasets, measures)
        self.save_button = widgets.Button(description="Save figures", icon="save")
        self.stop_button = widgets.Button(description="Stop", tooltip="give up what is being computed")
        self.status = widgets.HTML(layout={"min_height": "1.4em"})
        self.map = HeatMap()
        names = ("pictures", "answers", "curve", "neighbors", "stitched")
        self.views = {name: widgets.HTML() for name in names}
        self.view = self._arranged()
        self._latest: Latest[Values] = Latest(self._answer, self._ahead, self._failed)
        for control in self.controls.values():
            control.observe(self._changed, "value")
        self.map.observe(self._clicked, "chosen")
        self.save_button.on_click(lambda _: self._save_and_say())
        self.stop_button.on_click(lambda _: self.stop())
        self._latest.ask(self._values())

    def _repr_mimebundle_(self, **options) -> object:
        """The view, in a notebook; where that cannot be shown, a line that says so."""
        found = self.view._repr_mimebundle_(**options)
        data, *metadata = found if isinstance(found, tuple) else (found,)
        data = {**data, "text/plain": "The explorer: run this cell to see its controls."}
        return (data, *metadata) if metadata else data

    # -- controls -------------------------------------------------------------------------------------------

    def _make_controls(
        self, datasets: Sequence[str], measures: Sequence[str]
    ) -> dict[str, widgets.ValueWidget]:
        """Make the controls as the setting has them; other choices are found when they are first shown."""
        at = self.setting
        attacks = {pair: text for text, pair in ATTACK_NAMES.items()}
        wide = {"layout": {"width": "302px"}, "style": {"description_width": "72px"}}
        network_a = network_text(at.architecture_a, at.trained_a)
        network_b = network_text(at.architecture_b, at.trained_b)

        def choice(description: str, options: Sequence[str], value: str) -> widgets.Dropdown:
            return widgets.Dropdown(options=list(options), value=value, description=description, **wide)

        def stops(description: str, values: Sequence[object]) -> widgets.SelectionSlider:
            return widgets.SelectionSlider(options=values, description=description, **wide)

        def count(description: str, value: int, most: int) -> widgets.IntSlider:
            return widgets.IntSlider(value, 0, max(most, value), description=description, **wide)

        return {
            "dataset": choice("data set", datasets, at.dataset),
            "network_a": choice("network A", [network_a], network_a),
            "network_b": choice("network B", [network_b], network_b),
            "seed": count("seed", at.seed, SEEDS - 1),
            "measure": choice("measure", measures, at.measure),
            "inputs": choice("inputs", INPUTS, at.inputs),
            "attack": choice("attack", list(ATTACK_NAMES), attacks[at.attack, at.norm]),
            "epsilon": stops("ε", [(epsilon_text(at.epsilon), at.epsilon)]),
            "layer_a": stops("layer of A", [at.layer_a or "…"]),
            "layer_b": stops("layer of B", [at.layer_b or "…"]),
            "image": count("image", at.image, self.backend.images - 1),
        }

    def _arranged(self) -> widgets.Widget:
        left = widgets.VBox(
            [*self.controls.values(), widgets.HBox([self.save_button, self.stop_button])],
            layout={"min_width": "316px"},
        )
        left.add_class("repsim-controls")
        columns = [
            widgets.VBox([self.map, self.views["neighbors"]], layout={"margin": "0 24px 0 0"}),
            widgets.VBox([self.views[name] for name in ("curve", "answers", "stitched")]),
        ]
        views_of_it = widgets.HBox(columns, layout={"flex_flow": "row wrap"})
        right = widgets.VBox([self.status, self.views["pictures"], views_of_it])
        return widgets.HBox([left, right], layout={"align_items": "flex-start"})

    def _values(self) -> Values:
        return {name: control.value for name, control in self.controls.items()}

    @property
    def _is_ours(self) -> bool:
        """Whether it is the thread that computes which moves a control: that is no request."""
        return threading.current_thread() is self._latest.thread

    def _changed(self, change: Mapping[str, object]) -> None:
        if not self._is_ours:
            self._say("…")
            self._latest.ask(self._values())

    def _clicked(self, change: Mapping[str, object]) -> None:
        """Take over a pair of layers that was chosen in the map."""
        if not self._is_ours and self.map.rows:
            row, column = change["new"]
            self.controls["layer_a"].value = self.map.rows[row]
            self.controls["layer_b"].value = self.map.columns[column]

    def _read(self, at: Values) -> Setting:
        """The setting that controls ask for; controls get what there is to choose from."""
        known = self.backend.networks(at["dataset"])
        chosen = {}
        for side in ("a", "b"):
            name = f"network_{side}"
            text = at[name] if at[name] in known else self._likeliest(known, robust=side == "b")
            chosen[f"architecture_{side}"], chosen[f"trained_{side}"] = known[text]
            self._offer(name, list(known), text)
        attack, norm = ATTACK_NAMES[at["attack"]]
        stops = sorted({*self.backend.epsilons(at["dataset"], norm), *self._own_stop(at, norm)})
        epsilon = at["epsilon"] if at["epsilon"] in stops else self._as_far(at["epsilon"], stops)
        self._offer("epsilon", [(epsilon_text(stop), stop) for stop in stops], epsilon)
        as_they_are = ("dataset", "seed", "measure", "layer_a", "layer_b", "inputs", "image")
        chosen |= {name: at[name] for name in as_they_are}
        return Setting(**chosen, attack=attack, norm=norm, epsilon=epsilon)

    def _as_far(self, epsilon: float, stops: Sequence[float]) -> float:
        """The stop that is as far along another slider of ε."""
        offered = [value for _, value in self.controls["epsilon"].options]
        place = offered.index(epsilon) if epsilon in offered else 0  # it was moved while it became another
        return stops[min(place, len(stops) - 1)]

    def _own_stop(self, at: Values, norm: str) -> list[float]:
        """The ε that was given at first, where it still belongs."""
        given = self.given
        return [given.epsilon] if (given.dataset, given.norm) == (at["dataset"], norm) else []

    def _offer(self, name: str, options: Sequence[object], value: object) -> None:
        """Offer what there is to choose from; moved only if it must be, as someone may hold it."""
        control = self.controls[name]
        if list(control.options) != list(options):
            control.options = options
            control.value = value
        elif value != self._asked[name]:
            control.value = value

    def _likeliest(self, known: Mapping[str, tuple[str, float]], robust: bool) -> str:
        """A network of another data set, in place of one that it has not."""
        levels = sorted({trained for _, trained in known.values()})
        kinds = [kind for kind, _ in known.values()]
        kind = zoo.MAIN if zoo.MAIN in kinds else kinds[0]
        return network_text(kind, levels[-1] if robust else levels[0])

    # -- views ----------------------------------------------------------------------------------------------

    def _answer(self, at: Values, step: Step) -> None:
        self._asked = at
        self.setting = self._read(at)
        drawn: set[str] = set()
        for results in self.backend.partial_results(self.setting, step):
            self.setting, self.shown = results.setting, results
            self._show(results, drawn)
        self._say("", results.notes)

    def _ahead(self, at: Values, step: Step) -> None:
        self.backend.ahead(self.setting, step)

    def _failed(self, error: Exception) -> None:
        """The page says what happened, and goes on."""
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        self._say("", [f"{kind}{error}"])

    def _show(self, results: Results, drawn: set[str]) -> None:
        """Draw what is there and not drawn yet; what is not there stays as it was."""
        draws = {
            "layers": self._offer_layers,
            "pictures": lambda results: views.pictures(results.pictures),
            "answers": lambda results: views.answers(results.answers, results.true, results.setting.inputs),
            "map": self._draw_map,
            "curve": self._curves,
            "neighbors": self._neighbors,
            "stitched": lambda results: views.stitched(results.stitched),
        }
        for name, draw in draws.items():
            if name in drawn or getattr(results, name) is None:
                continue
            found = draw(results)
            if name in self.views:
                self.views[name].value = found
            drawn.add(name)

    def _offer_layers(self, results: Results) -> None:
        chosen = results.setting.layer_a, results.setting.layer_b
        for name, layer, layers in zip(("layer_a", "layer_b"), chosen, results.layers, strict=True):
            self._offer(name, layers, layer)

    def _draw_map(self, results: Results) -> None:
        at = results.setting
        pair = f"{at.layer_a} of A (down), {at.layer_b} of B (across)"
        label = find_measure(at.measure).label
        self.map.show(results.map, f"{label} = {results.value:.3f}: {pair}")
        self.map.chosen = [results.layers[0].index(at.layer_a), results.layers[1].index(at.layer_b)]

    def _curves(self, results: Results) -> str:
        at = results.setting
        label = f"{at.measure}, natural – {at.attack.upper()} at ε = {epsilon_text(at.epsilon)}"
        return views.curves(results.curve, {"A": at.layer_a, "B": at.layer_b}, label)

    def _neighbors(self, results: Results) -> str:
        dataset = results.setting.dataset
        images, labels = self.backend.natural(dataset)
        classes = self.backend.dataset(dataset).classes
        return views.neighbors(results.neighbors, images, [classes[label] for label in labels.tolist()])

    def _say(self, text: str, notes: list[str] | None = None) -> None:
        self.status.value = views.message(notes) if notes else f"<span>{text}</span>"

    def stop(self) -> None:
        """Give up what is being computed."""
        self._latest.stop()
        self._say("stopped; move a control to go on")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all that the controls ask for is shown; whether that was in time."""
        return self._latest.wait(timeout)

    def close(self) -> None:
        """End the thread that computes."""
        self._latest.close()

    # -- saving ---------------------------------------------------------------------------------------------

    def save(self) -> list[Path]:
        """Write what is shown as figures, each with its table, and the setting as a file of parameters.

        Returns
        -------
        list
            `figures/<dataset>/07_*.png`, `.pdf` and `.csv`, and `07_setting.yaml`, for `repsim run 07 -f`.

        Raises
        ------
        ValueError
            There is nothing yet, or a view of it is missing.
        """
        results = self.shown
        if results is None or any(getattr(results, name) is None for name in NEEDED):
            raise ValueError("what is shown is not complete: there is nothing to save yet.")
        return save_results(results, self.backend)

    def _save_and_say(self) -> None:
        try:
            saved = self.save()
        except (ValueError, OSError) as error:
            self._failed(error)
        else:
            self._say(f"saved {len(saved)} files in {saved[0].parent}")
