"""The table and the pages say what is declared."""

import pytest

from repsim.measures import MEASURES, PREDICTION_MEASURES, documentation


def test_the_table_has_a_row_for_every_measure():
    rows = [line.split("|") for line in documentation.table().splitlines() if line.startswith("| `")]
    assert [row[1].strip() for row in rows] == [f"`{name}`" for name in MEASURES]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    assert cells["`cka_angular`"][:4] == [
        "distance",
        "[0, π/2]",
        "orthogonal, scale, translation",
        "yes, a metric",
    ]
    assert cells["`pwcca`"][2] == "x: permutation, scale, translation; y: linear, translation"
    assert cells["`jaccard`"][2] == "orthogonal, scale *"


def test_every_page_explains():
    for name in (*MEASURES, *PREDICTION_MEASURES):
        page = documentation.explain(name)
        measure = {**MEASURES, **PREDICTION_MEASURES}[name]
        assert page.startswith(f"{name}(")
        assert measure.description in page
        for option, default in measure.options.items():
            assert f"{option}={default!r}" in page
        assert measure.reference in page


def test_a_page_lists_the_options_that_change_what_does_not_matter():
    page = documentation.explain("shape_metric")
    assert "shape_metric             orthogonal, translation\n" in page
    assert "shape_metric(alpha=0.0)  linear, translation\n" in page
    assert "shape_metric(alpha=1.0)  orthogonal, scale, translation\n" in page
    assert "Its interval comes from subsampling." in page
    assert "Its interval comes from jackknife." in documentation.explain("cka_debiased")


@pytest.mark.parametrize(
    ("name", "trusted"),
    [("cka", "right to 0.001"), ("jaccard", "right to 0.004"), ("gulp", "not to be trusted")],
)
def test_a_page_says_how_far_half_precision_goes(name, trusted):
    said = f"Of features in half precision (float16, bfloat16) it is {trusted}."
    assert said in documentation.explain(name)


def test_a_page_for_given_options():
    assert documentation.explain("jaccard(k=3, center=True)").startswith(
        "jaccard(k=3, metric='cosine', center=True)\nsimilarity, [0, 1]; symmetric\n"
    )


def test_an_unknown_page_names_the_nearest():
    with pytest.raises(ValueError, match="unknown measure 'procrustis'; did you mean 'procrustes'"):
        documentation.explain("procrustis")
