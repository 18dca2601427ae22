"""The command line: `repsim run | layers | measures | evaluate | pack | zoo`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from repsim import run


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
    _add(commands, "pack", "put stored stitches into the files of the repository", _pack_arguments, _pack)
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
        "model", help="an architecture (wrn_28_4), or a trained model's name, address or file"
    )
    parser.add_argument(
        "--image-shape",
        type=_shape,
        default=(3, 32, 32),
        metavar="C,H,W",
        help="of an architecture's images (default: 3,32,32)",
    )
    parser.add_argument("--classes", type=int, default=10, help="of an architecture (default: 10)")


def _shape(text: str) -> tuple[int, int, int]:
    lengths = [length.strip() for length in text.split(",")]
    if len(lengths) != 3 or not all(length.isdecimal() and int(length) for length in lengths):
        raise argparse.ArgumentTypeError(f"expected channels,height,width such as 3,32,32, not {text!r}")
    return tuple(map(int, lengths))


def _layers(chosen: argparse.Namespace) -> int:
    from repsim.graphs import trace
    from repsim.models import ARCHITECTURES, build_model, is_architecture
    from repsim.stitching.network import kind_of_stitch
    from repsim.store import load_model

    if is_architecture(chosen.model) and not Path(chosen.model).is_file():
        channels = chosen.image_shape[0]
        neutral = [0.0] * channels, [1.0] * channels
        network, shape = (
            build_model(chosen.model, chosen.image_shape, chosen.classes, *neutral),
            chosen.image_shape,
        )
    else:
        try:
            trained = load_model(chosen.model)
        except ValueError as error:
            raise ValueError(f"{error} Architectures: {', '.join(ARCHITECTURES)}.") from error
        network, shape = trained.network, trained.record["image_shape"]
    graph = trace(network, shape)
    table = graph.table()
    table["stitch"] = [kind_of_stitch(graph, layer) for layer in table["layer"]]
    print(table.to_string(index=False))
    return 0


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
        "models", nargs="+", metavar="MODEL", help="trained models: names, addresses or files"
    )
    parser.add_argument("--dataset", help="evaluate on this data set (default: that of the first model)")
    parser.add_argument("--epsilon", default="0,0.05,0.1,0.2", help="attack ε, with commas between: 0,8/255")
    parser.add_argument("--norm", default="linf", help="linf (default) or l2")
    parser.add_argument("--steps", type=int, default=20, help="steps of PGD (default: 20)")
    parser.add_argument("--test-size", type=int, help="use so many test images (default: all)")
    parser.add_argument(
        "--transfer", action="store_true", help="also attack each model with images made to fool the others"
    )


def _evaluate(chosen: argparse.Namespace) -> int:
    from repsim.attacks import Attack, parse_epsilon
    from repsim.data import load_data
    from repsim.evaluation import transfer_table
    from repsim.store import load_model
    from repsim.training import robust_accuracy

    models = [load_model(name) for name in chosen.models]
    data = load_data(chosen.dataset or models[0].recipe.dataset, test_size=chosen.test_size)
    attacks = [Attack(parse_epsilon(e), chosen.norm, chosen.steps) for e in chosen.epsilon.split(",")]
    for model in models:
        model.check_classes(data)
    for model in models:
        print(f"\n{model.name} on {len(data.test)} test images of {data.title}")
        print(robust_accuracy(model.network, data.test, attacks).round(4).to_string(index=False))
    if chosen.transfer:
        for attack in attacks:
            print(
                f"\naccuracy of targets on images made to fool sources, {attack.norm} ε = {attack.epsilon:g}"
            )
            table = transfer_table(models, data.test, attack)
            print(table.pivot(index="source", columns="target", values="accuracy").round(4).to_string())
    return 0


def _pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="whose stitches: digits, shapes")


def _pack(chosen: argparse.Namespace) -> int:
    from repsim.stitching.store import pack, stored_stitches

    for dataset in chosen.datasets:
        path = pack(dataset)
        print(f"{len(stored_stitches(dataset))} stitches are in {path}")
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
    from repsim import zoo

    for dataset in chosen.datasets:
        print(
            zoo.build(dataset, chosen.groups, retrain=chosen.retrain, jobs=chosen.jobs).to_string(index=False)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
