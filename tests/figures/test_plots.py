"""Figures show what is in their table, legibly, and are saved beside it, the same every time."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from repsim.activations import trace
from repsim.figures import maps, plots
from repsim.models import build_model
from repsim.support import paths


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def table():
    """Two seeds of each of three ε at four depths."""
    rows = [
        {"epsilon": epsilon, "seed": seed, "depth": depth, "value": 1 - depth * epsilon - 0.01 * seed}
        for epsilon in (0.1, 0.0, 0.05)
        for seed in (0, 1)
        for depth in (0.0, 0.25, 0.5, 1.0)
    ]
    return pd.DataFrame(rows).assign(other=2.5)


def square(layers, others=None, low=0.0):
    """A map of made-up values."""
    others = layers if others is None else others
    values = np.random.default_rng(0).uniform(low, 1, (len(layers), len(others)))
    return pd.DataFrame(values, index=layers, columns=others)


def boxes(figure, things):
    figure.canvas.draw()
    return [thing.get_window_extent() for thing in things if thing.get_visible() and thing.get_text()]


def overlaps(boxes):
    """Pairs of boxes that share more than a pixel."""
    return [(a, b) for a, b in itertools.combinations(boxes, 2) if a.padded(-0.5).overlaps(b.padded(-0.5))]


# saving


def test_a_picture_is_saved_with_its_table(table):
    axis = plots.curves(table, "depth", "value", "epsilon")
    path = plots.save(axis.figure, table, "digits", "curves")
    assert path == paths.figures("digits") / "curves.png"
    assert sorted(file.name for file in path.parent.iterdir()) == ["curves.csv", "curves.png"]
    found = pd.read_csv(path.with_suffix(".csv"))
    pd.testing.assert_frame_equal(found, table, rtol=1e-5)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_the_same_table_gives_the_same_bytes(table):
    def drawn():
        axis = plots.curves(table, "depth", "value", "epsilon")
        path = plots.save(axis.figure, table, "digits", "curves")
        plt.close("all")
        return path.read_bytes(), path.with_suffix(".csv").read_bytes()

    first, again = drawn(), drawn()
    assert first == again


def test_a_failed_drawing_leaves_the_old_picture(table, monkeypatch):
    axis = plots.curves(table, "depth", "value")
    path = plots.save(axis.figure, table, "digits", "curves")
    before = path.read_bytes()

    def fail(file, **_):
        file.write_bytes(b"half")
        raise OSError("disk trouble")

    monkeypatch.setattr(axis.figure, "savefig", fail)
    with pytest.raises(OSError, match="disk trouble"):
        plots.save(axis.figure, table, "digits", "curves")
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["curves.csv", "curves.png"]


def test_save_table_hands_the_table_on():
    table = pd.DataFrame({"claim": ["ε rises, it says"], "value": [1 / 3], "models": ["5 + 5"], "count": [3]})
    assert plots.save_table(table, "digits", "verdicts") is table
    text = (paths.figures("digits") / "verdicts.csv").read_text(encoding="utf-8")
    assert text == 'claim,value,models,count\n"ε rises, it says",0.333333,5 + 5,3\n'


# heat maps


@pytest.mark.parametrize("count", [1, 3])
def test_heat_maps_share_one_colour_scale(count):
    layers = ["conv1", "relu", "fc"]
    matrices = {f"map {i}": square(layers) * (i + 1) / 3 for i in range(count)}
    figure = plots.heat_maps(matrices, low=-0.5, label="similarity")
    maps = [axis for axis in figure.axes if axis.get_images()]
    bars = [axis for axis in figure.axes if not axis.get_images()]
    assert [axis.get_title() for axis in maps] == list(matrices)
    assert {axis.get_images()[0].get_clim() for axis in maps} == {(-0.5, 1)}
    assert len({axis.get_images()[0].cmap.name for axis in maps}) == 1
    assert [axis.get_ylabel() for axis in bars] == ["similarity"]  # one colour bar
    for axis, matrix in zip(maps, matrices.values(), strict=True):
        assert np.array_equal(axis.get_images()[0].get_array(), matrix.to_numpy())


def test_heat_maps_run_from_the_input_up_and_to_the_right():
    figure = plots.heat_maps({"map": square(["conv1", "relu", "fc"], ["conv1", "fc"])})
    axis = figure.axes[0]
    low, high = axis.get_ylim()
    assert low < high
    assert [label.get_text() for label in axis.get_yticklabels()] == ["conv1", "relu", "fc"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["conv1", "fc"]
    assert axis.get_yticks().tolist() == [0, 1, 2]


NETWORKS = [
    ("resnet_tiny", (1, 16, 16)),
    ("resnet_tiny_deep", (1, 16, 16)),
    ("wrn_28_1", (3, 32, 32)),
    ("resnet18", (3, 32, 32)),
    ("vit_tiny", (1, 16, 16)),
    ("vgg_tiny", (1, 16, 16)),
    ("mlp", (1, 16, 16)),
]


@pytest.mark.matrix("resnet_tiny", "vit_tiny")
@pytest.mark.parametrize(("architecture", "shape"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_layer_names_do_not_overlap(architecture, shape):
    network = build_model(architecture, shape, 10, [0.5] * shape[0], [0.2] * shape[0])
    layers = list(trace(network, shape).layers)
    matrix = square(layers)
    figure = plots.heat_maps({"standard": matrix, "robust (ε = 0.1)": matrix, "standard with robust": matrix})
    for axis in figure.axes[:3]:
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            assert 2 < len(labels) <= maps.TICKS
            assert overlaps(boxes(figure, labels)) == []
            places = [label.get_position() for label in labels]
            assert len(set(places)) == len(places)
    texts = [label for axis in figure.axes[:3] for label in axis.get_yticklabels()]
    titles = [axis.title for axis in figure.axes[:3]]
    assert overlaps(boxes(figure, texts)) == []  # nor with those of the map beside it
    assert overlaps(boxes(figure, titles)) == []
    width, height = figure.canvas.get_width_height()
    for box in boxes(figure, [*texts, *titles, *figure.axes[0].get_xticklabels()]):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_ticks_stand_where_their_layers_are():
    network = build_model("wrn_28_1", (3, 32, 32), 10, [0.5] * 3, [0.2] * 3)
    layers = list(trace(network, (3, 32, 32)).layers)
    axis = plots.heat_maps({"map": square(layers)}).axes[0]
    for place, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True):
        assert layers[int(place)].startswith(label.get_text())
    lines = [line.get_ydata()[0] for line in axis.get_lines() if len(set(line.get_ydata())) == 1]
    assert {place + 0.5 for place in lines} >= {layers.index("layer2.0.bn1")}


# curves


def test_curves_are_means_and_their_bands_ranges(table):
    axis = plots.curves(
        table, "depth", "value", "epsilon", labels={"epsilon": "trained at ε", "value": "CKA"}
    )
    lines = [line for line in axis.get_lines() if len(line.get_xdata()) == 4]
    assert len(lines) == 3
    for line, epsilon in zip(lines, (0.0, 0.05, 0.1), strict=True):
        depth = np.array([0.0, 0.25, 0.5, 1.0])
        assert line.get_xdata().tolist() == depth.tolist()
        assert line.get_ydata() == pytest.approx(1 - depth * epsilon - 0.005)
    band = axis.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.99, 1.0))
    assert axis.get_xlabel() == "depth"
    assert axis.get_ylabel() == "CKA"


def test_epsilons_are_written_short_and_in_order(table):
    axis = plots.curves(table, "depth", "value", "epsilon", labels={"epsilon": "trained at ε"})
    legend = axis.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["0", "0.05", "0.1"]
    assert legend.get_title().get_text() == "trained at ε"


def test_the_legend_stands_beside_the_axes(table):
    axis = plots.curves(table, "depth", "value", "epsilon")
    axis.figure.canvas.draw()
    legend, area = axis.get_legend().get_window_extent(), axis.get_window_extent()
    assert legend.x0 >= area.x1 - 1
    assert legend.x1 <= axis.figure.canvas.get_width_height()[0]


def test_hue_and_style_are_both_told(table):
    both = pd.concat([table.assign(attack="PGD"), table.assign(attack="FGSM", value=table["value"] - 0.5)])
    axis = plots.curves(both, "depth", "value", "attack", "epsilon", ordered=False, marker=None)
    texts = [text.get_text() for text in axis.get_legend().get_texts()]
    assert texts == ["attack", "PGD", "FGSM", "epsilon", "0", "0.05", "0.1"]
    assert len([line for line in axis.get_lines() if len(line.get_xdata()) == 4]) == 6


def test_two_quantities_are_both_in_order(table):
    both = pd.concat([table.assign(level=level) for level in (0.5, 0.25)])
    some = both[~((both["level"] == 0.25) & (both["epsilon"] == 0.0))]  # a level without every ε
    axis = plots.curves(some, "depth", "value", "epsilon", "level")
    texts = [text.get_text() for text in axis.get_legend().get_texts()]
    assert texts == ["epsilon", "0", "0.05", "0.1", "level", "0.25", "0.5"]


def test_colours_of_a_quantity_go_from_light_to_dark(table):
    axis = plots.curves(table, "depth", "value", "epsilon")
    lines = [line for line in axis.get_lines() if len(line.get_xdata()) == 4]
    lightness = [sum(plt.matplotlib.colors.to_rgb(line.get_color())) for line in lines]
    assert lightness == sorted(lightness, reverse=True)


def test_curves_without_hue_go_on_the_given_axes(table):
    _, axis = plt.subplots()
    assert plots.curves(table, "depth", "value", axis=axis) is axis
    assert axis.get_legend() is None


def test_panels_have_one_legend(table):
    figure = plots.panels(
        table,
        "depth",
        {"value": "CKA", "other": "the other"},
        "epsilon",
        labels={"epsilon": "trained at ε", "depth": "depth of the layer"},
    )
    assert [axis.get_ylabel() for axis in figure.axes] == ["CKA", "the other"]
    assert [axis.get_xlabel() for axis in figure.axes] == ["depth of the layer"] * 2
    assert [axis.get_legend() is not None for axis in figure.axes] == [False, True]
    bare = plots.panels(table, "depth", {"value": "CKA"}, labels={})
    assert [axis.get_legend() for axis in bare.axes] == [None]


# images


def pictures(count, channels):
    return torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(0))


def shown(axis):
    """What is drawn: red, green and blue of each pixel."""
    image = axis.get_images()[0]
    return image.make_image(plt.gcf().canvas.get_renderer(), unsampled=True)[0][..., :3]


def test_a_label_may_be_the_name_of_another_column(table):
    axis = plots.curves(table, "depth", "value", "epsilon", labels={"value": "other", "depth": "seed"})
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("seed", "other")
    assert axis.lines[0].get_ydata().max() < 2.5


def test_facets_are_a_grid_of_curves_with_one_legend(table):
    wide = pd.concat(
        [
            table.assign(fitting_method=each, value=table["value"] + shift)
            for each, shift in (("b", 0), ("a", 1))
        ]
    )
    ys = {"value": "what it is worth", "other": "the other"}
    figure = plots.facets(wide, "depth", ys, "fitting_method", "seed", labels={"depth": "how deep"})
    axes = np.array(figure.axes).reshape(2, 2)
    assert [axis.get_title() for axis in axes[0]] == ["b", "a"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["what it is worth", "the other"]
    assert [axis.get_xlabel() for axis in axes[1]] == ["how deep", "how deep"]
    assert [axis.get_legend() is not None for axis in axes.flat] == [False, True, False, False]
    assert axes[0, 0].get_ylim() == axes[0, 1].get_ylim() != axes[1, 0].get_ylim()
    first, second = (axis.lines[0].get_ydata() for axis in axes[0])
    np.testing.assert_allclose(second, first + 1)


def test_heat_maps_say_what_their_axes_are():
    figure = plots.heat_maps({"one": square(["a", "b"])}, axes_labels=("front", "end"))
    assert (figure.axes[0].get_ylabel(), figure.axes[0].get_xlabel()) == ("front", "end")


def test_grey_images_are_shown_in_grey():
    grey = pictures(3, 1)
    grey[0] = 0.5  # its own range must not be stretched to black and white
    figure = plots.image_grid({"original": grey, "attacked": 1 - grey}, columns=["a", "b", "c"])
    assert len(figure.axes) == 6
    for axis, image in zip(figure.axes, [*grey, *(1 - grey)], strict=True):
        pixels = shown(axis)
        assert (pixels == pixels[..., :1]).all()
        expected = image[0].numpy() * 255
        assert np.abs(pixels[..., 0].astype(float) - expected).max() <= 1.5
    assert [axis.get_ylabel() for axis in figure.axes] == ["original", "", "", "attacked", "", ""]
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", "", "", ""]


def test_colour_images_are_shown_in_their_colours():
    colour = pictures(2, 3)
    figure = plots.image_grid({"original": colour})
    for axis, image in zip(figure.axes, colour, strict=True):
        expected = image.permute(1, 2, 0).numpy() * 255
        assert np.abs(shown(axis).astype(float) - expected).max() <= 1.5
        assert axis.get_xticks().tolist() == axis.get_yticks().tolist() == []


def test_a_grid_is_as_wide_as_its_shortest_row():
    figure = plots.image_grid({"many": pictures(5, 1), "few": pictures(2, 1)})
    assert len(figure.axes) == 4
    assert all(axis.get_images() for axis in figure.axes)


# maps of models, and bars


def models_map(names, seed=0):
    values = np.random.default_rng(seed).uniform(0, 1, (len(names), len(names)))
    return pd.DataFrame(values, index=names, columns=names)


def test_model_maps_name_every_model_and_part_the_groups():
    names = [f"ε = {epsilon}, {kind}" for epsilon in (0, 0.1) for kind in ("resnet_tiny_deep", "mlp", "vgg")]
    maps = {"natural images": models_map(names), "inverted images": models_map(names, 1)}
    figure = plots.model_maps(maps, label="cka", axes_labels=("inverted through", "compared with"))
    first, second, colorbar = figure.axes
    assert [axis.get_title() for axis in (first, second)] == list(maps)
    for axis, matrix in zip((first, second), maps.values(), strict=True):
        image = axis.images[0]
        np.testing.assert_allclose(image.get_array(), matrix)
        assert image.get_clim() == (0, 1)
        assert [tick.get_text() for tick in axis.get_xticklabels()] == names
        lines = [line.get_data() for line in axis.lines]
        assert sorted({float(y[0]) for x, y in lines if y[0] == y[1]}) == [2.5]
        assert sorted({float(x[0]) for x, y in lines if x[0] == x[1]}) == [2.5]
    assert [tick.get_text() for tick in first.get_yticklabels()] == names
    assert first.get_ylabel() == "inverted through"
    assert {first.get_xlabel(), second.get_xlabel()} == {"compared with"}
    assert colorbar.get_ylabel() == "cka"
    assert not overlaps(boxes(figure, [*first.get_yticklabels(), first.title, second.title]))
    assert not overlaps(boxes(figure, first.get_xticklabels()))


@pytest.mark.parametrize(
    ("change", "limits"),
    [
        ({}, (0, 1)),
        ({"lowest": -0.2}, (-0.2, 1)),
        ({"highest": 1.5}, (0, 1.5)),
        ({"lowest": -3.0, "highest": 2.0}, (-3, 2)),
        ({"lowest": np.nan}, (0, 1)),
    ],
)
def test_model_maps_widen_their_one_scale_for_values_outside_of_it(change, limits):
    maps = {name: models_map(["a", "b", "c"], seed) for seed, name in enumerate(("natural", "stir"))}
    maps["natural"].loc["b", "c"] = change.get("lowest", 0.5)
    maps["stir"].loc["c", "a"] = change.get("highest", 0.5)
    figure = plots.model_maps(maps, label="procrustes", axes_labels=("a", "b"))
    first, second, colorbar = figure.axes
    assert first.images[0].get_clim() == second.images[0].get_clim() == limits
    assert colorbar.get_ylim() == limits


def test_bars_are_means_with_a_dot_for_each_value():
    rows = [
        {"network": network, "feature": feature, "share": share + step}
        for network, feature, share in (("a", "x", 0.2), ("a", "y", 0.8), ("b", "x", 0.5), ("b", "y", 0.1))
        for step in (-0.1, 0.0, 0.1)
    ]
    labels = {"network": "", "share": "share of images", "feature": "that show"}
    figure = plots.bars(pd.DataFrame(rows), "network", "share", "feature", labels=labels)
    (axis,) = figure.axes
    heights = sorted(patch.get_height() for patch in axis.patches if patch.get_width())
    np.testing.assert_allclose([height for height in heights if height], [0.1, 0.2, 0.5, 0.8], atol=1e-9)
    dots = np.concatenate([each.get_offsets()[:, 1] for each in axis.collections])
    np.testing.assert_allclose(sorted(dots), sorted(row["share"] for row in rows))
    assert axis.get_ylabel() == "share of images"
    assert axis.get_legend().get_title().get_text() == "that show"
    assert not axis.get_legend().get_window_extent().overlaps(axis.get_window_extent())


# boxes and points


def pairs_of_networks(measures=("cka", "jaccard", "gulp"), places=("digits", "shapes"), count=7):
    """Values of some measures at two places, larger with ε, on scales of their own."""
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"where": place, "measure": measure, "epsilon": epsilon, "value": scale * (epsilon + noise)}
            for measure, scale in zip(measures, (1.0, 0.1, 50.0), strict=False)
            for place in places
            for epsilon in (0.2, 0.0, 0.1)
            for noise in generator.random(count)
        ]
    )


def drawn_boxes(axis):
    """Low and high end of each box, by its middle."""
    found = {}
    for patch in axis.patches:
        corners = patch.get_path().vertices
        found[round(corners[:, 0].mean(), 3)] = corners[:, 1].min(), corners[:, 1].max()
    return found


def test_a_box_is_between_the_quartiles_and_its_whiskers_reach_to_the_ends():
    table = pairs_of_networks()
    figure = plots.boxes(table, "where", "value", "measure", "epsilon")
    for axis in figure.axes:
        own = table[table["measure"] == axis.get_title()]
        expected = [
            tuple(np.quantile(rows["value"], [0.25, 0.75]))
            for place in ("digits", "shapes")
            for _, rows in own[own["where"] == place].groupby("epsilon")
        ]
        found = drawn_boxes(axis)
        assert [found[middle] for middle in sorted(found)] == [pytest.approx(each) for each in expected]
        ends = [value for line in axis.lines for value in line.get_ydata()]
        assert min(ends) == pytest.approx(own["value"].min())
        assert max(ends) == pytest.approx(own["value"].max())


def test_boxes_have_a_panel_for_each_measure_on_its_own_scale():
    figure = plots.boxes(pairs_of_networks(), "where", "value", "measure", "epsilon", across=2)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == ["cka", "jaccard", "gulp"]
    assert [axis.get_ylim()[1] < 1.5 for axis in shown] == [True, True, False]
    figure.canvas.draw()
    named = [[text.get_text() for text in axis.get_xticklabels() if text.get_visible()] for axis in shown]
    assert named == [[], ["digits", "shapes"], ["digits", "shapes"]]  # the first has one below it


def test_boxes_have_one_legend_with_each_level_once_from_small_to_large():
    (legend,) = plots.boxes(pairs_of_networks(), "where", "value", "measure", "epsilon").legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "0.1", "0.2"]
    assert legend.get_title().get_text() == "epsilon"


def test_marks_are_drawn_across_their_place_in_their_panel():
    table = pairs_of_networks()
    marks = pd.DataFrame(
        {"where": ["digits", "shapes"], "measure": "cka", "epsilon": 0.0, "value": [0.3, 0.4]}
    )
    figure = plots.boxes(
        table,
        "where",
        "value",
        "measure",
        "epsilon",
        marks=marks,
        marked="by chance",
        labels={"epsilon": "ε"},
    )
    plain = plots.boxes(table, "where", "value", "measure", "epsilon")
    more = [len(axis.lines) - len(other.lines) for axis, other in zip(figure.axes, plain.axes, strict=True)]
    assert more == [2, 0, 0]
    drawn = [line for line in figure.axes[0].lines if list(line.get_ydata()) in ([0.3] * 2, [0.4] * 2)]
    assert sorted(np.mean(line.get_xdata()) for line in drawn) == [0, 1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "0.1", "0.2", "by chance"]
    assert legend.get_title().get_text() == "ε"


def test_boxes_leave_out_what_has_no_value():
    table = pairs_of_networks()
    table.loc[(table["measure"] == "cka") & (table["where"] == "shapes"), "value"] = np.nan
    figure = plots.boxes(table, "where", "value", "measure", "epsilon")
    assert [len(axis.patches) for axis in figure.axes] == [3, 6, 6]


def test_colours_of_what_is_no_quantity_do_not_go_from_light_to_dark():
    table = pairs_of_networks().assign(which=lambda table: table["epsilon"].map(str))
    ordered = plots.boxes(table, "where", "value", "measure", "which")
    other = plots.boxes(table, "where", "value", "measure", "which", ordered=False)
    first, second = (
        {patch.get_facecolor() for patch in figure.axes[0].patches} for figure in (ordered, other)
    )
    assert len(first) == len(second) == 3
    assert first.isdisjoint(second)


def test_nothing_of_boxes_is_cut_off_or_covered():
    table = pairs_of_networks([f"a_rather_long_measure_{i}" for i in range(3)], ["digits\nnatural", "x\ny"])
    figure = plots.boxes(table, "where", "value", "measure", "epsilon", across=3)
    texts = [axis.title for axis in figure.axes] + [t for axis in figure.axes for t in axis.get_xticklabels()]
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    found = [legend, *boxes(figure, texts)]
    assert not overlaps(found)
    assert all(figure.bbox.padded(1).contains(box.x0, box.y0) for box in found)
    assert all(figure.bbox.padded(1).contains(box.x1, box.y1) for box in found)


def test_points_are_where_the_table_has_them_with_their_references():
    table = pairs_of_networks(["cka"]).assign(accuracy=lambda table: np.linspace(0.5, 0.9, len(table)))
    table["independent"] = table["accuracy"] ** 2
    figure = plots.points(
        table, "accuracy", "value", "where", "epsilon", references={"independent": "_"}, labels={"value": "y"}
    )
    for axis, (place, own) in zip(figure.axes, table.groupby("where"), strict=True):
        assert axis.get_title() == place
        references, *levels = axis.collections
        np.testing.assert_allclose(references.get_offsets(), own[["accuracy", "independent"]])
        for level, (_, rows) in zip(levels, own.groupby("epsilon"), strict=True):
            np.testing.assert_allclose(level.get_offsets(), rows[["accuracy", "value"]])
    assert figure.axes[0].get_ylabel() == "y"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "0.1", "0.2", "independent"]


def test_panels_of_facets_have_one_colour_for_one_level():
    """Though not each of them has all levels: digits and shapes are trained at other ε."""
    table = pairs_of_networks(["cka"]).assign(k=lambda table: table.groupby(["where", "epsilon"]).cumcount())
    table = table[(table["where"] == "digits") | (table["epsilon"] != 0.1)]
    figure = plots.facets(table, "k", {"value": "y"}, "where", "epsilon", labels={})
    colours = []
    for axis, (_, own) in zip(figure.axes, table.groupby("where", sort=False), strict=True):
        ends = {rows.sort_values("k")["value"].iloc[-1]: epsilon for epsilon, rows in own.groupby("epsilon")}
        lines = [line for line in axis.lines if len(line.get_ydata())]
        colours.append({ends[line.get_ydata()[-1]]: line.get_color() for line in lines})
    assert colours[1] == {epsilon: colours[0][epsilon] for epsilon in (0.0, 0.2)}
    (legend,) = [axis.get_legend() for axis in figure.axes if axis.get_legend() is not None]
    assert [text.get_text() for text in legend.get_texts()] == ["0", "0.1", "0.2"]


def test_the_name_of_a_column_of_images_does_not_run_into_the_next():
    figure = plots.image_grid({"seed": pictures(2, 1)}, columns=["automobile → truck", "4 → 7"])
    assert [axis.get_title() for axis in figure.axes[:2]] == ["automobile →\ntruck", "4 → 7"]
