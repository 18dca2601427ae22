"""Each mend is made where its fault is present, only there and only once."""

import importlib
import subprocess
import sys
import textwrap

import pytest
import torch

from repsim.support import compat

NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def python(code, *options):
    """Run code in a Python of its own, with warnings as errors; what it printed."""
    command = [sys.executable, "-W", "error", *options, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- torchvision as it is installed here --------------------------------------------------------------------

TRY = """
try:
    import torchvision
except RuntimeError as error:
    print(error)
"""
USE = """
from repsim.support import compat
from repsim.support.compat import torchvision
import sys, torch
assert sys.modules["torchvision"] is torchvision
assert [type(library) for library in compat._defined] == [torch.library.Library]
assert torch.ops.torchvision.nms.default and torch.ops.torchvision.qnms.default

assert compat.import_torchvision() is torchvision
assert len(compat._defined) == 1

from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
images = torch.rand(2, 3, 40, 50)
small = torchvision.transforms.functional.center_crop(images, [32, 32])
network = torchvision.models.resnet18(weights=None).eval()
assert "layer1.0.relu" in get_graph_node_names(network)[1]
features = create_feature_extractor(network, {"layer1": "out"})(small)
assert features["out"].shape == (2, 64, 8, 8)
assert torchvision.datasets.CIFAR10
"""


@pytest.fixture(scope="module")
def complaint():
    """What `import torchvision` by itself raises here."""
    complaint = python(TRY)
    if complaint != "operator torchvision::nms does not exist":
        pytest.skip("torchvision loads its own operators here, so there is nothing to mend")
    return complaint


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", TRY], ids=["at once", "after a failed import"])
def test_a_torchvision_that_cannot_load_its_operators_is_usable(complaint, before):
    assert python(before + USE) == (complaint if before else "")


# -- torchvision as it may be elsewhere ---------------------------------------------------------------------


class Library:
    """Takes the place of `torch.library.Library` and remembers what was defined."""

    defined: list

    def __init__(self, namespace, kind):
        assert (namespace, kind) == ("torchvision", "DEF")

    def define(self, schema):
        self.defined.append(schema)


@pytest.fixture
def other_torchvision(tmp_path, monkeypatch):
    """Make a package `torchvision` of the given files the one that is imported, and forget the real one."""
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchvision"}
    monkeypatch.setattr(compat, "_defined", [])
    monkeypatch.setattr(torch.library, "Library", Library)
    monkeypatch.setattr(Library, "defined", [], raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    def forget():
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]

    def make(**files):
        for name, source in files.items():
            path = tmp_path / "torchvision" / f"{name.replace('.', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
        forget()
        importlib.invalidate_caches()

    yield make
    forget()
    sys.modules.update(ours)


def test_a_sound_torchvision_is_left_alone(other_torchvision):
    other_torchvision(__init__="sound = True")
    assert compat.import_torchvision().sound
    assert Library.defined == compat._defined == []


def test_missing_operators_are_defined_once(other_torchvision):
    other_torchvision(
        __init__="""
            from torchvision import half
            import torch
            if not torch.library.Library.defined:
                half.initialised = True
                raise RuntimeError("operator torchvision::nms does not exist")
        """,
        half="initialised = False",
    )
    torchvision = compat.import_torchvision()
    assert Library.defined == [f"nms{NMS}", f"qnms{NMS}"]
    assert not torchvision.half.initialised  # nothing of the failed import is left
    assert compat.import_torchvision() is torchvision
    assert len(Library.defined) == 2


@pytest.mark.parametrize("error", ["the GPU is on fire", "operator other::nms does not exist"])
def test_another_fault_is_passed_on(other_torchvision, error):
    other_torchvision(__init__=f"raise RuntimeError({error!r})")
    with pytest.raises(RuntimeError) as passed_on:
        compat.import_torchvision()
    assert str(passed_on.value) == error
    assert Library.defined == compat._defined == []


def test_operators_are_never_defined_twice(other_torchvision):
    other_torchvision(__init__="raise RuntimeError('operator torchvision::roi_align does not exist')")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="operator torchvision::roi_align does not exist"):
            compat.import_torchvision()
    assert Library.defined == [f"nms{NMS}", f"qnms{NMS}"]


# -- robustness ---------------------------------------------------------------------------------------------


def test_model_utils_are_made_where_they_are_missing(other_torchvision):
    files = {"__init__": "", "models.__init__": ""}
    other_torchvision(**files)
    compat.alias_model_utils()
    made = importlib.import_module("torchvision.models.utils")
    assert made.load_state_dict_from_url is torch.hub.load_state_dict_from_url
    compat.alias_model_utils()
    assert sys.modules["torchvision.models.utils"] is made


def test_model_utils_that_exist_are_left_alone(other_torchvision):
    utils = "def load_state_dict_from_url(url):\n    return 'its own'"
    other_torchvision(**{"__init__": "", "models.__init__": "", "models.utils": utils})
    compat.alias_model_utils()
    assert importlib.import_module("torchvision.models.utils").load_state_dict_from_url("") == "its own"


@pytest.mark.slow
def test_robustness_imports_without_a_warning(tmp_path):
    """Compiled anew, because Python only warns of an escape sequence when it compiles."""
    code = f"""
        import sys
        from repsim.support.compat import import_robustness
        sys.pycache_prefix = {str(tmp_path)!r}
        assert import_robustness("attack_steps").LinfStep
        assert import_robustness("attacker").AttackerModel
        assert import_robustness("datasets").DATASETS["cifar"]
        import warnings
        try:
            warnings.warn("still an error", DeprecationWarning)
        except DeprecationWarning as warning:
            print(warning)
    """
    assert python(code) == "still an error"


# -- robustbench --------------------------------------------------------------------------------------------


@pytest.fixture
def robustbench(tmp_path, monkeypatch):
    """A package that imports what robustbench 1.1 does, beside the packages as they are called today."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("autoattack", "pkg_resources")]:
        monkeypatch.delitem(sys.modules, name)
    files = {
        "pyautoattack/__init__.py": "class AutoAttack: pass\n",
        "pyautoattack/state.py": "class EvaluationState: pass\n",
        "robustbench/__init__.py": "",
        "robustbench/utils.py": (
            "import warnings\nimport pkg_resources\nfrom autoattack import AutoAttack\n"
            "from autoattack.state import EvaluationState\nwarnings.warn('of its own')\n"
            "place = pkg_resources.resource_filename(__name__, 'helper_files/x.txt')\n"
        ),
        "robustbench/other.py": "import missing_from_everywhere\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in [name for name in sys.modules if name.split(".")[0] in ("robustbench", "pyautoattack")]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pkg_resources" else find_spec(name)
    )
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("autoattack", "pkg_resources", "robustbench", "pyautoattack"):
            del sys.modules[name]


def test_robustbench_finds_what_it_imports_by_its_old_names(robustbench):
    utils = compat.import_robustbench("utils")
    assert utils.AutoAttack is sys.modules["pyautoattack"].AutoAttack
    assert utils.EvaluationState.__module__ == "pyautoattack.state"
    assert utils.place == str(robustbench / "robustbench" / "helper_files" / "x.txt")
    assert "pkg_resources" not in sys.modules  # others would take it for the real one


def test_what_robustbench_misses_is_named(robustbench):
    message = r"need the package missing_from_everywhere: pip install 'robust-repsim\[robustbench\]'$"
    with pytest.raises(RuntimeError, match=message):
        compat.import_robustbench("other")
