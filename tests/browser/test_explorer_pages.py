"""The explorer as a person meets it: in JupyterLab, and as a web page."""

import re

import pytest
from playwright.sync_api import expect

CAPTION = re.compile(r"^cka = [0-9.]+: layer2.0.relu2 of A \(down\), layer2.0.relu2 of B \(across\)$")


def slider(page, name):
    """The handle of a slider by what stands before it."""
    row = page.locator(".widget-hslider").filter(has=page.get_by_text(name, exact=True))
    return row.get_by_role("slider")


def picture(page, name):
    return page.get_by_role("img", name=name, exact=True).first


def shown(page):
    """The number above the map, what the curve says of ε, and a picture's pixels."""
    return (
        page.locator(".repsim-caption").inner_text(),
        page.get_by_text("natural – PGD at").inner_text(),
        picture(page, "fools A").get_attribute("src"),
    )


def is_ready(page):
    expect(page.locator(".repsim-caption")).to_have_text(CAPTION)
    expect(page.get_by_text("nearest, by B")).to_be_visible()
    return page


@pytest.fixture(scope="module")
def in_lab(lab, visit):
    page = visit(f"{lab}/doc/tree/explorer.ipynb")
    expect(page.get_by_text("| Idle")).to_be_visible()  # before, it would ask for a kernel
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    # Cells far from what is looked at are not in the page: go up until the controls are.
    expect(up_to_the_map(page)).to_be_visible()
    return is_ready(page)


def up_to_the_map(page):
    page.locator(".jp-WindowedPanel-outer").first.hover()
    for _ in range(200):
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(300)
        if page.locator(".repsim-map").count() and page.locator(".repsim-map").is_visible():
            break
    page.locator(".repsim-map").scroll_into_view_if_needed()
    return page.locator(".repsim-map")


@pytest.fixture(scope="module")
def on_the_web(web, visit):
    return is_ready(visit(web))


@pytest.fixture(params=["in_lab", "on_the_web"])
def page(request):
    return request.getfixturevalue(request.param)


def test_the_slider_of_epsilon_moves_what_is_shown(page):
    page.get_by_label("inputs").select_option("adversarial")
    expect(page.get_by_text("answers to the adversarial image")).to_be_visible()
    before = shown(page)
    slider(page, "ε").press("ArrowRight")
    slider(page, "ε").press("ArrowRight")
    expect(page.get_by_text("natural – PGD at ε = 0.15")).to_be_visible()
    expect(page.locator(".repsim-caption")).not_to_have_text(before[0])
    after = shown(page)
    assert all(one != other for one, other in zip(before, after, strict=True))
    page.get_by_label("inputs").select_option("natural")
    expect(page.get_by_text("answers to the natural image")).to_be_visible()


def test_layers_are_chosen_by_a_click_and_by_the_arrow_keys(page):
    cells = page.locator(".repsim-map tr").last.locator("td")
    cells.first.click()
    expect(page.locator(".repsim-caption")).to_have_text(
        re.compile("layer1.0.relu2 of A .* layer1.0.relu2 of B")
    )
    expect(cells.first).to_have_class(re.compile("repsim-chosen"))
    page.locator(".repsim-map").press("ArrowRight")
    expect(page.locator(".repsim-caption")).to_have_text(
        re.compile("layer1.0.relu2 of A .* layer2.0.relu2 of B")
    )


def test_what_cannot_be_shown_is_a_message_and_no_traceback(page):
    page.get_by_label("inputs").select_option("inverted")
    slider(page, "seed").press("End")
    alert = page.get_by_role("alert").filter(
        has_text="no images inverted through resnet_tiny, standard, seed 4"
    )
    expect(alert).to_be_visible()
    expect(page.get_by_text("Traceback")).to_have_count(0)
    slider(page, "seed").press("Home")
    expect(alert).to_have_count(0)
    expect(page.get_by_text("answers to the inverted image")).to_be_visible()


def test_the_web_page_shows_no_sources(on_the_web):
    expect(on_the_web.get_by_text("07 · Explorer")).to_be_visible()
    expect(on_the_web.get_by_text("import Explorer")).to_have_count(0)


def test_two_visitors_do_not_disturb_each_other(on_the_web, web, visit):
    other = is_ready(visit(web))
    before = shown(on_the_web)
    slider(other, "ε").press("End")
    expect(other.get_by_text("natural – PGD at ε = 0.3")).to_be_visible()
    assert shown(on_the_web) == before


def test_a_kernel_that_has_gone_is_said(in_lab):
    """The last test of this page: nothing on it is alive any more."""
    in_lab.get_by_role("menuitem", name="Kernel", exact=True).click()
    in_lab.get_by_role("menuitem", name=re.compile("^Restart Kernel…")).click()
    in_lab.locator(".jp-Dialog .jp-mod-accept").click()
    expect(in_lab.get_by_text("The kernel has gone: run this cell again.")).to_be_visible()
