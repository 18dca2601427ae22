"""What was stored once is still found: addresses as they were computed before there was one store."""

import json
from pathlib import Path

import pytest

from repsim.studies.comparison.result_cache import VALUES, InputIdentity
from repsim.studies.inversion.store import INVERTED
from repsim.studies.probing import ProbeOptions, ProbeRecipe
from repsim.studies.stitching.store import STITCHES
from repsim.training.model_store import MODELS

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
STORES = {"networks": MODELS, "stitches": STITCHES, "inverted sets": INVERTED}
GROUPS = [(kind, group) for kind in STORES for group in GOLDEN[kind]]


@pytest.mark.matrix("shapes")
@pytest.mark.parametrize(("kind", "group"), GROUPS)
def test_all_that_is_committed_is_found_whole_by_its_recipe(kind, group):
    store = STORES[kind]
    names = {found.recipe.name: found.recipe for found in store.listed(group)}
    assert set(GOLDEN[kind][group]) <= set(names)
    for recipe in names.values():
        found = store.find(recipe)
        assert not found.path.is_relative_to(store.folders()[0])  # but in the checkout
        for suffix in found.checksums:
            assert found.tensors(suffix)


def test_probes_and_values_have_their_addresses():
    recipe = ("digits", "200x1x16x16", "mlp-0123456789ab", "ba9876543210", "hidden.5")
    options = [
        ProbeOptions(),
        ProbeOptions(penalty=0.01, pool=False),
        ProbeOptions("logistic"),
        ProbeOptions("adam", epochs=2),
    ]
    assert [ProbeRecipe(*recipe, each).address for each in options] == GOLDEN["probes"]
    identities = [
        {"images": "0123456789ab"},
        {"images": "0123456789ab", "labels": "ba9876543210"},
        {"images": "0123456789ab", "attack": {"epsilon": 0.1, "norm": "linf"}},
    ]
    found = [VALUES.path(InputIdentity(each)).stem for each in identities]
    assert found == GOLDEN["comparison values"]
