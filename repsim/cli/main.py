"""The command line: `repsim run | layers | measures | evaluate | check | convert | pack | …`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repsim.cli import run
from repsim.cli.kinds import KINDS
from repsim.cli.parameters import convert

if TYPE_CHECKING:
    from repsim.models.checkpoints import Checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what is wrong with what was asked is said on stderr, without a traceback."""
    parser = argparse.ArgumentParser(
        prog="repsim",
        description="What does adversarial robustness do to the representations inside neural networks?",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _add(commands, "run", "run notebooks headless", run.add_arguments, run.main)
    _add(commands, "layers", "print the layers of a network", _layers_arguments, _layers)
    _add(commands, "measures", "list the similarity measures, or explain one", _measures_arguments, _measures)
    _add(commands, "evaluate", "print clean, robust and transfer accuracy", _evaluate_arguments, _evaluate)
    _add(commands, "check", "find out which network a file holds, by accuracy", _check_arguments, _check)
    _add(commands, "convert", "write a checkpoint as tensors only", _convert_arguments, _convert)
    _add(commands, "pack", "put stored stitches into the files of the repository", _pack_arguments, _pack)
    _add(
        commands, "pack-images", "put a folder of images into one file", _pack_images_arguments, _pack_images
    )
    _add(commands, "zoo", "train what is missing of the committed networks", _zoo_arguments, _zoo)
    chosen = parser.parse_args(arguments)
    try:
        return chosen.run(chosen)
    except BrokenPipeError:  # the reader has seen enough: `repsim run --list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, RuntimeError) as error:
        print(f"repsim: {error}", file=sys.stderr)
        return 2


def _add(commands, name: str, description: str, add_arguments, command) -> None:
    parser = commands.add_parser(name, help=description, description=description.capitalize() + ".")
    add_arguments(parser)
    parser.set_defaults(run=command)


# torch takes seconds to import: commands that need it import it themselves.


def _layers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        help="an architecture (wrn_28_4, mymodule:Net), or a trained model's name, address or file",
    )
    parser.add_argument(
        "--image-shape",
        type=_shape,
        default=(3, 32, 32),
        metavar="C,H,W",
        help="of an architecture's images (default: 3,32,32)",
    )
    parser.add_argument("--classes", type=int, default=10, help="of an architecture (default: 10)")
    parser.add_argument("--architecture", default="", help="of a file whose weights do not tell")
    parser.add_argument("--weights", default="", help="of a file that holds several: ema, or their key")


def _shape(text: str) -> tuple[int, int, int]:
    lengths = [length.strip() for length in text.split(",")]
    if len(lengths) != 3 or not all(length.isdecimal() and int(length) for length in lengths):
        raise argparse.ArgumentTypeError(f"expected channels,height,width such as 3,32,32, not {text!r}")
    return tuple(map(int, lengths))


def _layers(chosen: argparse.Namespace) -> int:
    from repsim.activations import trace
    from repsim.models import ARCHITECTURES, build_model, is_architecture
    from repsim.models.checkpoints import read_checkpoint
    from repsim.models.own import find_own
    from repsim.models.variants import split_variants
    from repsim.studies.stitching.network import kind_of_stitch
    from repsim.training.loading import is_foreign
    from repsim.training.model_store import stored_model

    def built(architecture: str, shape: Sequence[int], classes: int):
        return build_model(architecture, shape, classes, [0.0] * shape[0], [1.0] * shape[0])

    named = is_architecture(chosen.model) or find_own(split_variants(chosen.model)[0]) is not None
    if named and not Path(chosen.model).is_file():
        network, shape = built(chosen.model, chosen.image_shape, chosen.classes), chosen.image_shape
    elif is_foreign(chosen.model):
        found = read_checkpoint(chosen.model, **_chosen(chosen))
        print(_found(found))
        network, shape = built(found.architecture, found.image_shape, found.num_classes), found.image_shape
    else:
        try:
            trained = stored_model(chosen.model)
        except ValueError as error:
            raise ValueError(f"{error} Architectures: {', '.join(ARCHITECTURES)}.") from error
        network, shape = trained.network, trained.record["image_shape"]
    graph = trace(network, shape)
    table = graph.table()
    table["stitch"] = [kind_of_stitch(graph, layer) for layer in table["layer"]]
    print(table.to_string(index=False))
    if graph.notes:
        print("", *graph.notes, sep="\n")
    return 0


def _chosen(chosen: argparse.Namespace) -> dict[str, str]:
    """The options of `read_checkpoint` that were given."""
    given = {"architecture": chosen.architecture, "weights": chosen.weights}
    return {name: value for name, value in given.items() if value}


def _found(checkpoint: Checkpoint) -> str:
    """Say what was found in a file, with what it leaves open."""
    from repsim.models.normalizations import in_numbers

    lines = [
        f"{checkpoint.source}: {checkpoint.format}, {checkpoint.architecture}, "
        f"{checkpoint.num_classes} classes",
        *checkpoint.notes,
    ]
    if checkpoint.left_open:
        lines.append(
            f"{checkpoint.left_open} 'repsim check {checkpoint.source} --dataset NAME' tells them apart by "
            "accuracy; --architecture names one."
        )
    if checkpoint.mean is not None and checkpoint.std is not None:
        lines.append(f"It normalises with {in_numbers(checkpoint.mean, checkpoint.std)}.")
    else:
        lines.append(
            "It holds no normalisation: when it is loaded, that of the data set's training images is taken, "
            "unless normalization=… says another."
        )
    return "\n    ".join(lines)


def _measures_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--explain", metavar="NAME", help="definition, options, invariances, use and traps")


def _measures(chosen: argparse.Namespace) -> int:
    from repsim.measures import documentation

    if chosen.explain:
        print(documentation.explain(chosen.explain))
    else:
        print(f"{documentation.table()}\n\nOf predictions:\n\n{documentation.prediction_table()}")
    return 0


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="names, addresses or files, with what a file does not say: '{robust.pt: {epsilon: 8/255}}'",
    )
    parser.add_argument("--dataset", help="evaluate on this data set (default: that of the first model)")
    parser.add_argument(
        "--attack",
        default="pgd",
        help="with commas between: pgd (default), fgsm, apgd_ce, apgd_dlr, apgd_t, autoattack, snow, jpeg or "
        "gabor",
    )
    parser.add_argument(
        "--epsilon",
        default="0,0.05,0.1,0.2",
        help="attack ε, with commas between: 0,8/255 (of pixels in [0, 1]; jpeg: quantisation steps)",
    )
    parser.add_argument("--norm", default="linf", help="linf (default) or l2")
    parser.add_argument(
        "--steps", type=int, help="of attacks that take several (default: the usual number, for PGD 20)"
    )
    parser.add_argument("--test-size", type=int, help="use so many test images (default: all)")
    parser.add_argument(
        "--transfer", action="store_true", help="also attack each model with images made to fool the others"
    )


def _evaluate(chosen: argparse.Namespace) -> int:
    from repsim.attacks import make_attack
    from repsim.data import load_data
    from repsim.studies.models.evaluation import transfer_table
    from repsim.training import robust_accuracy
    from repsim.training.loading import describe, is_foreign, load_models
    from repsim.training.model_store import stored_model

    attacks = [
        make_attack(name.strip(), epsilon, chosen.norm, steps=chosen.steps)
        for name in chosen.attack.split(",")
        for epsilon in chosen.epsilon.split(",")
    ]
    checkpoints = _checkpoints(chosen.models)
    first = next(iter(checkpoints))
    if not chosen.dataset and is_foreign(first):
        raise ValueError(f"{first} does not say on which images: name a data set with --dataset.")
    name = chosen.dataset or stored_model(first).recipe.dataset
    data = load_data(name, test_size=chosen.test_size)
    models = load_models(checkpoints, data, progress=False)
    if imported := [model for model in models if model.recipe.method == "imported"]:
        print(describe(imported))
    for model in models:
        model.check_classes(data)
    for model in models:
        print(f"\n{model.name} on {len(data.test)} test images of {data.title}")
        print(robust_accuracy(model.network, data.test, attacks).round(4).to_string(index=False))
    if chosen.transfer:
        for attack in attacks:
            print(
                "\naccuracy of targets on images made to fool sources, "
                f"{attack.name} {attack.norm} ε = {attack.epsilon:g}"
            )
            table = transfer_table(models, data.test, attack)
            print(table.pivot(index="source", columns="target", values="accuracy").round(4).to_string())
    return 0


def _checkpoints(texts: Sequence[str]) -> dict[str, object]:
    """Names and mappings of the command line as one mapping: name → options."""
    found: dict[str, object] = {}
    for text in texts:
        try:
            found |= convert(text, KINDS["Checkpoints"])
        except ValueError:
            found[text] = None
    return found


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint of any format that repsim reads")
    parser.add_argument("--dataset", required=True, help="what it classifies: its test images are tried")
    parser.add_argument("--test-size", type=int, help="use so many test images (default: up to 2,000)")
    parser.add_argument("--architecture", default="", help="try only this one (wrn_28_10, mymodule:Net)")
    parser.add_argument("--normalization", help="try only this one (cifar10, '0.49 0.48 0.45 / 0.25')")
    parser.add_argument("--weights", default="", help="of a file that holds several: ema, or their key")


def _check(chosen: argparse.Namespace) -> int:
    from repsim.data import load_data
    from repsim.training.identifying import identify

    data = load_data(chosen.dataset, test_size=chosen.test_size)
    found = identify(
        chosen.file,
        data,
        architecture=chosen.architecture,
        normalization=chosen.normalization,
        weights=chosen.weights,
    )
    print(found)
    return 0 if found.settled else 1


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE", help="a checkpoint of any format that repsim reads")
    parser.add_argument("target", metavar="OUT.safetensors", type=Path, help="what is written")
    parser.add_argument(
        "--architecture", default="", help="where its weights do not tell (wrn_28_10, mymodule:Net)"
    )
    parser.add_argument("--weights", default="", help="of a file that holds several: ema, or their key")
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="run the code that is in FILE, with all your rights, to load it; for files of people you trust",
    )


def _convert(chosen: argparse.Namespace) -> int:
    from repsim.models.checkpoints import convert

    read = convert(chosen.source, chosen.target, trust_pickle=chosen.trust_pickle, **_chosen(chosen))
    print(f"{_found(read)}\nwritten to {chosen.target}")
    return 0


def _pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="whose stitches: digits, shapes")


def _pack(chosen: argparse.Namespace) -> int:
    from repsim.studies.stitching.store import pack, stored_stitches

    for dataset in chosen.datasets:
        path = pack(dataset)
        print(f"{len(stored_stitches(dataset))} stitches are in {path}")
    return 0


def _pack_images_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="with train/ and test/ (or val/), each with a folder for every class")
    parser.add_argument("out", help="the file to make, such as photos.lmdb; the data set is then packed:OUT")
    parser.add_argument(
        "--size", type=int, help="shrink images whose shorter side is longer to so many pixels, as JPEG"
    )
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")


def _pack_images(chosen: argparse.Namespace) -> int:
    from repsim.data import pack_images

    made = pack_images(chosen.folder, chosen.out, size=chosen.size, skip_unreadable=chosen.skip_unreadable)
    if made["resumed"]:
        print(f"went on from {made['resumed']} images that an interrupted run had packed")
    for name in made["skipped"]:
        print(f"skipped, for it cannot be read: {name}")
    print(f"{made['train']} training and {made['test']} test images are in {chosen.out}")
    return 0


def _zoo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "datasets",
        nargs="+",
        metavar="DATASET",
        help="digits, shapes, two_features (and …_outline, …_texture)",
    )
    parser.add_argument("--groups", nargs="+", default=[], help="only these parts of the zoo")
    parser.add_argument("--retrain", action="store_true", help="train again what is there")
    parser.add_argument("--jobs", type=int, help="networks trained at the same time (default: one per core)")


def _zoo(chosen: argparse.Namespace) -> int:
    from repsim.training import zoo

    for dataset in chosen.datasets:
        print(
            zoo.build(dataset, chosen.groups, retrain=chosen.retrain, jobs=chosen.jobs).to_string(index=False)
        )
    return 0
