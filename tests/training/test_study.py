"""A study takes a notebook's parameters by their names, and obtains what they ask for."""

import pytest

from repsim.studies.comparison import UniversalityStudy
from repsim.studies.models import ModelStudy
from repsim.studies.stitching import StitchingStudy
from repsim.support import paths

GIVEN = {"dataset": "digits", "model": "resnet_tiny", "epsilons": ["0", "0.1"], "seeds": 2, "device": "cpu"}


def test_parameters_that_are_no_fields_are_left_alone():
    study = ModelStudy.of({**GIVEN, "attacks": ["pgd"], "plots": object()})
    assert (study.model, study.seeds, study.norm) == ("resnet_tiny", 2, "linf")
    with pytest.raises(TypeError, match="epsilons"):
        ModelStudy.of({"dataset": "digits", "model": "mlp", "seeds": 1})


def test_committed_networks_are_obtained_and_data_loaded_once():
    study = ModelStudy.of(GIVEN)
    models = study.models()
    assert [(m.recipe.epsilon, m.recipe.seed) for m in models] == [(0, 0), (0, 1), (0.1, 0), (0.1, 1)]
    assert study.load("digits") is study.data
    assert study.describe(models).startswith("digits: 4 networks; 1297 training and 500 test images")
    assert not paths.data().exists()


def test_stitches_are_the_recipes_that_sections_show():
    given = {**GIVEN, "epsilon": "0.1", "sweep_seeds": 1, "layers": ["blocks"], "alphas": [0.0]}
    given |= {"direct": ["orthogonal"], "attacked": ["front"], "ranks": [1, 2]}
    study = StitchingStudy.of(given)
    batches = study.stitches(study.models())
    layers, mixed = 3, 2  # one pair, in both directions
    counts = {name: len(batch.recipes) for name, batch in batches.items()}
    assert counts == {
        "same_layer": 2 * 8 * layers,
        "attacked": mixed * layers,
        "truncated": mixed * layers,
        "low_rank": 2 * mixed * layers,
        "batchnorm": 4 * mixed,
    }
    assert batches["truncated"].truncations == [1, 2]
    assert len({id(batch.evaluation) for batch in batches.values()}) == 1
    assert study.networks_beside(study.models()) == {}


def test_claims_are_judged_by_similarities():
    study = UniversalityStudy.of({**GIVEN, "architectures": [], "judged": "procrustes"})
    with pytest.raises(ValueError, match="judged by a similarity, but procrustes is a distance"):
        study.chosen  # noqa: B018
