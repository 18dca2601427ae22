"""The inverted images and stitches that a notebook's parameters ask for, and which of them there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from repsim.attacks import Attack, parse_epsilon
from repsim.cli.planning.networks import ATTACKED_TOGETHER, Values, by_architecture
from repsim.cli.planning.work import FORWARD, Network, Remarks, Work, stitch_passes
from repsim.data import Dataset
from repsim.studies.inversion import InversionOptions, InversionRecipe, Pairs, find_inverted
from repsim.studies.inversion.inverting import BATCH as INVERTED_TOGETHER
from repsim.studies.inversion.published import published_file
from repsim.studies.stitching import Evaluation, StitchOptions, experiments, find_stitch
from repsim.studies.stitching.recipe import StitchRecipe
from repsim.training.model_store import TrainedModel


def inverted(
    values: Values,
    data: Dataset,
    models: Sequence[TrainedModel],
    remarks: Remarks,
    *,
    files: Sequence[str] = (),
    published: str = "",
) -> Iterator[Work]:
    """Sets of inverted images of one data set's networks, from seeds and, for some, from noise.

    Parameters
    ----------
    files, published
        Pairs and a folder of images that others made.
    """
    further = InversionOptions.read(values.get("inversion", {}))
    options = InversionOptions(**{"iterations": values["iterations"], **further})
    pairs = Pairs.read_files(files, data) if files else Pairs.draw(data, values["pairs"], keep=False)
    wanted = [("noise", model) for model in models if model.recipe.seed < values.get("stir_seeds", 0)]
    if published:
        for model in models:
            try:
                published_file(published, model)
            except ValueError as error:
                remarks.absent.append(str(error))
    else:
        wanted = [*(("seed", model) for model in models), *wanted]
    for kind, of_kind in by_architecture(model for _, model in wanted).items():
        recipes = [
            InversionRecipe.of(model, pairs, values["layer"], options, start=start)
            for start, model in wanted
            if model.recipe.architecture == kind
        ]
        there = 0 if values.get("recompute") else sum(find_inverted(recipe) is not None for recipe in recipes)
        missing = len(recipes) - there
        together = min(len(pairs), values.get("batch_size", INVERTED_TOGETHER)) if missing else 0
        passes = missing * len(pairs) * (options.iterations + FORWARD)
        network = Network.of(of_kind[0])
        yield Work(data.slug, "inverted sets", kind, there, missing, network, passes, together)


def stitched(
    values: Values,
    data: Mapping[str, Dataset],
    models: Sequence[TrainedModel],
    beside: Mapping[str, Sequence[TrainedModel]],
) -> Iterator[Work]:
    """Stitches, by the architecture of the end and the data set on which they are fitted.

    Parameters
    ----------
    models
        The donors.
    beside
        Data set → networks of another architecture or task.
    """
    asked: dict[tuple, tuple[StitchRecipe, Evaluation, set[int]]] = {}
    for recipe, evaluation, ranks in _stitches(values, data, models, beside):
        key = (recipe.address, *evaluation.key.values())
        asked.setdefault(key, (recipe, evaluation, set()))[2].update({0, *ranks})
    counts: dict[tuple[str, str], list[float]] = {}
    for recipe, evaluation, ranks in asked.values():
        stored = None if values.get("recompute") else find_stitch(recipe)
        unmeasured = [rank for rank in ranks if stored is None or not stored.measured(evaluation, rank)]
        fitting = 0.0 if stored else stitch_passes(recipe.options, len(data_of(data, recipe).train))
        measuring = len(evaluation.split) * (evaluation.attack.steps + FORWARD) * len(unmeasured)
        end = recipe.end.rpartition("-")[0]
        found = counts.setdefault((recipe.dataset, end), [0, 0, 0.0])
        found[bool(unmeasured)] += 1
        found[2] += fitting + measuring
    for (slug, end), (there, missing, passes) in counts.items():
        of = [
            model
            for model in [*models, *itertools.chain(*beside.values())]
            if model.name.startswith(f"{end}-")
        ]
        together = ATTACKED_TOGETHER if missing else 0
        yield Work(
            slug, "stitches", of[0].recipe.architecture, there, missing, Network.of(of[0]), passes, together
        )


def data_of(data: Mapping[str, Dataset], recipe: StitchRecipe) -> Dataset:
    """The data set that a stitch is fitted on."""
    return next(each for each in data.values() if each.slug == recipe.dataset)


def _stitches(
    values: Values,
    data: Mapping[str, Dataset],
    models: Sequence[TrainedModel],
    beside: Mapping[str, Sequence[TrainedModel]],
) -> Iterator[tuple[StitchRecipe, Evaluation, Sequence[int]]]:
    """All stitches that the parameters ask for, on what each is measured, and cut down to which ranks."""
    own = data[values["dataset"]]
    standard, robust = experiments.donors_among(models, parse_epsilon(values["epsilon"]))
    level, few = robust[0].recipe.epsilon, min(values["sweep_seeds"], len(robust))
    layers, same_layer = values["layers"], experiments.same_layer

    def evaluation_on(dataset: Dataset, epsilon: float) -> Evaluation:
        attack = Attack(epsilon, values["norm"], values["pgd_steps"])
        with_autoattack = values["autoattack"] and dataset is own
        return Evaluation(dataset, attack, with_autoattack=with_autoattack, device="cpu")

    fitting = StitchOptions.read(values["fitting"])
    settings = experiments.settings_for(own, **fitting)
    base, here = experiments.plain_method(settings), evaluation_on(own, level)
    attack = {"method": values["method"], "norm": values["norm"], "epsilon": level}
    ways = experiments.fitting_methods(settings, values["alphas"], values["direct"], **attack)
    pairs = experiments.donor_pairs(standard, robust)
    wanted = [(recipe, here, ()) for recipe in same_layer(pairs, layers, own, ways)]
    there = beside.get(values["cross_dataset"])
    if there:
        other = data[values["cross_dataset"]]
        kinds = [(standard[:few], there[:few]), (robust[:few], there[few:])]
        both = [pair for own_kind, their_kind in kinds for pair in zip(own_kind, their_kind, strict=True)]
        crossed = [*both, *((end, front) for front, end in both)]
        for each, epsilon in ((own, level), (other, parse_epsilon(values["cross_epsilon"]))):
            way = experiments.plain_method(experiments.settings_for(each, **fitting))
            recipes = same_layer(crossed, layers, each, [way], cross_task=True)
            seen = evaluation_on(each, epsilon)
            wanted += [(recipe, seen, ()) for recipe in recipes]
    if values["cross_model"] and own.name in beside:
        one, other = beside[own.name]
        for front, end in ((one, other), (other, one)):
            recipes = experiments.cross_layer(front, end, values["cross_layers"], own, base)
            wanted += [(recipe, here, ()) for recipe in recipes]
    mixed = [*zip(standard, robust, strict=True), *zip(robust, standard, strict=True)]
    mixed = [pair for pair in mixed if pair[0].recipe.seed < few]
    transfer = {**attack, "method": "pgd"}
    fooled = [
        experiments.attacked_method({**settings, "attacked": whose}, 1.0, **transfer)
        for whose in values["attacked"]
    ]
    low = [base.but(rank=rank) for rank in values["ranks"]]
    wanted += [(recipe, here, ()) for recipe in same_layer(mixed, layers, own, [*fooled, *low])]
    wanted += [(recipe, here, values["ranks"]) for recipe in same_layer(mixed, layers, own, [base])]
    fits = [
        base.but(initial="random", update_batchnorm=update, learning_rate=rate)
        for update in (False, True)
        for rate in (0.001, base.learning_rate)
    ]
    first = models[0].graph.select(layers)[:1]
    wanted += [(recipe, here, ()) for recipe in same_layer(mixed, first, own, fits)]
    return iter(wanted)
