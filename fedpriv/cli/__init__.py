"""The command line: ``fedpriv demo``, ``fedpriv run study.py``, ``fedpriv plan study.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fedpriv import __version__
from fedpriv.errors import FedprivError

EXAMPLE = """\
A study is a Python file that defines `federation` and `plans`:

    import fedpriv as fp

    federation = fp.data.digits(clients=50, partition=fp.data.Dirichlet(0.3), seed=0)
    plan = fp.Plan(
        model=fp.models.logistic,
        client=fp.LocalSGD(epochs=1, batch_size=8, learning_rate=0.3),
        aggregation=fp.SecureAggregation(),
        rounds=10,
    )
    plans = fp.grid(plan, mechanism=[fp.NoDP(), fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0)])
    seeds = range(3)          # optional; every plan runs once for each

`plans` is a Plan or {label: Plan}. `federation` may also be a function seed -> Federation, or {name: federation}.
Optional, and told apart by name: seeds, ideal, noise, observer, delta, evaluate_every, on_invalid, x and y (axes of the
figure), and for tuning: tune = {"client.learning_rate": [0.1, 0.3]}, select, tune_seeds, held_out, charge_tuning.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 2 refused (the message says why), 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except FedprivError as error:
        print(f"fedpriv: {type(error).__name__}: {error}", *getattr(error, "__notes__", ()), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\nfedpriv: {stop.args[0] if stop.args else 'interrupted; nothing was written.'}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedpriv",
        description="What secure aggregation, homomorphic encryption and differential privacy cost in federated "
        "learning, what they guarantee, and against whom.",
        epilog="Begin with `fedpriv demo`; `fedpriv run --help` shows how to write a study of your own.",
    )
    parser.add_argument("--version", action="version", version=f"fedpriv {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    _demo(commands.add_parser("demo", help="one federation under five protocols, with and without privacy"))
    _run(_study_parser(commands, "run", "run a study and save its tables and figure"))
    _plan(_study_parser(commands, "plan", "say what a study's plans will do, cost and reveal; run nothing"))
    return parser


def _study_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, words: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=words,
        description=f"{words[0].upper()}{words[1:]}.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", help="a Python file that defines `federation` and `plans`")
    return parser


def _count(word: str) -> int:
    number = int(word) if word.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not an integer ≥ 1")
    return number


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Digits over many small clients: plain averaging, masking secure aggregation, CKKS, BFV and Paillier, with and "
        "without differential privacy. Real cryptography for the protocols' rows; the same model under each."
    )
    parser.add_argument("--out", default="results/demo", help="folder for tables and figure (default: %(default)s)")
    for name, default, words in (
        ("clients", 100, "clients, at least 3"),
        ("rounds", 20, "rounds of training"),
        ("seeds", 3, "seeds of the trade-off curve"),
    ):
        parser.add_argument(
            f"--{name}", type=_count, metavar="N", default=default, help=f"{words} (default: %(default)s)"
        )

    def command(arguments: argparse.Namespace) -> int:
        from fedpriv.cli.demo import demo

        demo(arguments.out, clients=arguments.clients, rounds=arguments.rounds, seeds=arguments.seeds)
        return 0

    parser.set_defaults(command=command)


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", help="folder for tables and figure (default: results/<name of the study>)")
    parser.add_argument("--seeds", type=_count, metavar="N", help="use the seeds 0 … N - 1 instead of the study's own")
    parser.add_argument("--ideal", action="store_true", help="same sums and aborts without the cryptography")

    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the study that was interrupted or killed: finished runs are read back, the others resume",
    )
    parser.add_argument(
        "--every", type=_count, metavar="N", default=10, help="rounds between two checkpoints (default: %(default)s)"
    )
    parser.add_argument("--workers", type=_count, metavar="N", help="spread the runs over N processes")

    def command(arguments: argparse.Namespace) -> int:
        from fedpriv.cli.studyfile import load, run_study

        run_study(
            load(arguments.study),
            out=arguments.out,
            seeds=arguments.seeds,
            ideal=arguments.ideal,
            resume=arguments.resume,
            every=arguments.every,
            workers=arguments.workers,
        )
        return 0

    parser.set_defaults(command=command)


def _plan(parser: argparse.ArgumentParser) -> None:
    def command(arguments: argparse.Namespace) -> int:
        from fedpriv.cli.studyfile import explain_study, load

        explain_study(load(arguments.study))
        return 0

    parser.set_defaults(command=command)
