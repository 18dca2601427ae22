"""An unknown name is answered with the nearest known ones."""

import pytest

from repsim.support.messages import LISTED, unknown


def test_the_nearest_name_is_offered():
    message = "unknown layer 'layer1.con1'; did you mean 'layer1.conv1'? Known: layer1.conv1, fc, Normalize."
    assert unknown("layer", "layer1.con1", ["layer1.conv1", "fc", "Normalize"]) == message


def test_the_nearest_come_first_and_are_three_at_most():
    known = ["resnet18", "resnet34", "resnet50", "resnet101", "vgg11"]
    assert unknown("model", "resnet5", known) == (
        "unknown model 'resnet5'; did you mean 'resnet50' or 'resnet34' or 'resnet18'? "
        "Known: resnet18, resnet34, resnet50, resnet101, vgg11."
    )


@pytest.mark.parametrize(("typed", "meant"), [("cka", "CKA"), ("RESNET", "resnet"), ("Svcca", "svCCA")])
def test_capitals_do_not_matter_but_are_kept(typed, meant):
    assert unknown("measure", typed, [meant]) == (
        f"unknown measure {typed!r}; did you mean {meant!r}? Known: {meant}."
    )


def test_nothing_near_lists_what_is_known():
    assert unknown("data set", "zzz", ["digits", "shapes"]) == (
        "unknown data set 'zzz'; known: digits, shapes."
    )


def test_nothing_known():
    assert unknown("notebook", "00", []) == "unknown notebook '00'; there is no notebook at all"


def test_a_name_need_not_be_a_text():
    assert unknown("layer", 3, ["fc"]) == "unknown layer 3; known: fc."
    assert unknown("parameter", None, ["fc"]) == "unknown parameter None; known: fc."


def test_a_long_list_is_cut_and_counted():
    known = [f"block{number:02}" for number in range(LISTED)]
    assert unknown("layer", "x", iter(known)) == f"unknown layer 'x'; known: {', '.join(known)}."
    assert unknown("layer", "x", [*known, "fc"]) == (
        f"unknown layer 'x'; known: {', '.join(known)}, … ({LISTED + 1} in all)."
    )
