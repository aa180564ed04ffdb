"""Abadi et al. 2016 by fedpriv: ``python papers/abadi2016/reproduce.py [--quick]``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

import fedpriv as fp
from fedpriv.data import federate
from fedpriv.learning.update import Update
from fedpriv.privacy import record_event
from fedpriv.privacy.ledger import LedgerEvent
from fedpriv.report import reproduction
from fedpriv.report.reproduction import Row

HERE = Path(__file__).resolve().parent
DELTA = 1e-5
RATE, LOT = 0.01, 600
LOTS = 100
"""Of an epoch."""
CLIP = 4.0
DIRECTIONS = 60
"""Of the principal components."""
FIRST_RATE, LAST_RATE, DECAY = 0.1, 0.052, 10
"""Of learning: it falls from the first to the last over so many epochs, then stays."""
SEEDS = (0, 1, 2)
COLUMNS = (
    *("item", "epsilon", "noise_multiplier", "pca_noise_multiplier", "epochs", "seed", "published", "fedpriv"),
    *("epsilon_rdp_classic", "epsilon_rdp", "epsilon_pld", "seconds"),
)
Floats = npt.NDArray[np.float32]


def learning_rate(epoch: int) -> float:
    """As in the authors' program, but constant within an epoch."""
    return FIRST_RATE + (LAST_RATE - FIRST_RATE) * min(epoch / (DECAY - 1), 1.0)


def network() -> nn.Module:
    """The authors': no biases; normal weights of deviation 1 / √fan-in, cut at two deviations."""
    layers = [nn.Linear(DIRECTIONS, 1000, bias=False), nn.Linear(1000, 10, bias=False)]
    for layer in layers:
        deviation = layer.in_features**-0.5
        nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


@dataclass(frozen=True, kw_only=True)
class Private(fp.DPSGD):
    """DP-SGD whose learning rate falls from round to round; the client counts its rounds."""

    def init(self, client: Any) -> int:
        return 0

    def train(self, model: Any, broadcast: Any, clients: Any, states: Any, rngs: Any, **path: Any) -> list[Update]:
        now = replace(self, learning_rate=learning_rate(states[0]))
        updates = super(Private, now).train(model, broadcast, clients, states, rngs, **path)
        return [replace(update, state=epoch + 1) for update, epoch in zip(updates, states, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Plain(fp.LocalSGD):
    """The same without noise."""

    def init(self, client: Any) -> int:
        return 0

    def train(self, model: Any, broadcast: Any, clients: Any, states: Any, rngs: Any, **path: Any) -> list[Update]:
        now = replace(self, learning_rate=learning_rate(states[0]))
        updates = super(Plain, now).train(model, broadcast, clients, states, rngs, **path)
        return [replace(update, state=epoch + 1) for update, epoch in zip(updates, states, strict=True)]


def principal_directions(x: Floats, noise_multiplier: float, seed: int) -> Floats:
    """The first 60 eigenvectors of the noisy second moments of the records at length 1, ``[d, 60]``.

    One record more adds a matrix of norm 1, so that the noise multiplier is σ (Dwork et al. 2014, Analyze Gauss).
    """
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    moments = (unit.T @ unit).astype(np.float64)
    moments += noise_multiplier * np.random.default_rng([seed, 60]).standard_normal(moments.shape)
    _, vectors = np.linalg.eigh((moments + moments.T) / 2)
    return vectors[:, -DIRECTIONS:].astype(np.float32)


def projected(held: fp.data.Federation, noise_multiplier: float, seed: int) -> fp.data.Federation:
    """All records at one client, each as its coordinates along the directions."""
    (client,) = held.clients
    x, test_x = (images.reshape(len(images), -1) for images in (client.x, held.test_x))
    directions = principal_directions(x, noise_multiplier, seed)
    return federate(
        *(x @ directions, client.y), clients=1, test=(test_x @ directions, held.test_y), seed=0, classes=10, name="PCA"
    )


def lots(noise_multiplier: float, count: int) -> LedgerEvent:
    return record_event(
        client=0, rate=RATE, steps=count, noise_multiplier=noise_multiplier, clip_norm=CLIP, noise_source="seeded"
    )


def directions_event(noise_multiplier: float) -> LedgerEvent:
    """The release of the directions: one Gaussian on all records."""
    return record_event(
        client=0, rate=1.0, steps=1, noise_multiplier=noise_multiplier, clip_norm=1.0, noise_source="seeded"
    )


def ledger_of(*events: LedgerEvent) -> fp.Ledger:
    return fp.Ledger(threat=fp.PlainSum().threat_model, population=1, events=events)


def classic(ledger: fp.Ledger) -> float:
    """ε by the moments accountant's conversion."""
    return ledger.epsilon(DELTA, observer="server", unit="record", accountant="rdp", conversion="classic")


def epsilons(ledger: fp.Ledger) -> Row:
    return {
        "epsilon_rdp_classic": f"{classic(ledger):.4f}",
        "epsilon_rdp": f"{ledger.epsilon(DELTA, observer='server', unit='record', accountant='rdp'):.4f}",
        "epsilon_pld": f"{ledger.epsilon(DELTA, observer='server', unit='record', accountant='pld'):.4f}",
    }


def epochs_of(case: Row) -> int:
    """As many as the budget pays for by the paper's accountant, the directions included."""
    directions = directions_event(float(case["pca_noise_multiplier"]))
    low, high = 1, 4096
    while high - low > 1:
        middle = (low + high) // 2
        spent = classic(ledger_of(directions, lots(float(case["noise_multiplier"]), LOTS * middle)))
        low, high = (middle, high) if spent <= float(case["epsilon"]) else (low, middle)
    return low


def accountant() -> Iterator[Row]:
    """What needs no training: published ε and δ, and how long each budget lasts."""
    for case in published("epsilon"):
        ledger = ledger_of(lots(float(case["noise_multiplier"]), LOTS * int(case["epochs"])))
        yield {**row_of(case), "fedpriv": f"{classic(ledger):.4f}", **epsilons(ledger)}
    for case in published("delta"):
        # The authors' accountant charges a lot once for each of the network's two layers.
        charged = lots(float(case["noise_multiplier"]), 2 * round(LOTS * float(case["epochs"])))
        ledger = ledger_of(directions_event(float(case["pca_noise_multiplier"])), charged)
        found = ledger.delta(
            float(case["epsilon"]), observer="server", unit="record", accountant="rdp", conversion="classic"
        )
        yield {**row_of(case), "fedpriv": f"{found:.5g}"}
    for case in published("accuracy"):
        if case["epsilon"]:
            most = epochs_of(case)
            events = (
                directions_event(float(case["pca_noise_multiplier"])),
                lots(float(case["noise_multiplier"]), LOTS * most),
            )
            yield {**row_of(case), "item": "epochs", "published": "", "fedpriv": most, **epsilons(ledger_of(*events))}


def plan_of(case: Row, *, epochs: int, steps: int, rate: float, lot: int) -> fp.Plan:
    """One client, one round an epoch; a sum that is one client's update, to 2^-29."""
    client: fp.DPSGD | fp.LocalSGD
    if case["noise_multiplier"]:
        client = Private(
            learning_rate=FIRST_RATE,
            clip_norm=CLIP,
            noise_multiplier=float(case["noise_multiplier"]),
            sampling_rate=rate,
            expected_batch=lot,
            steps=steps,
        )
    else:
        client = Plain(epochs=1, batch_size=lot, learning_rate=FIRST_RATE)
    return fp.Plan(
        model=network,
        client=client,
        mechanism=fp.NoDP(weighting="equal", limit=4.0, bits=32),
        aggregation=fp.PlainSum(),
        rounds=epochs,
    )


def train(
    case: Row,
    seed: int,
    held: fp.data.Federation,
    *,
    epochs: int,
    steps: int = LOTS,
    rate: float = RATE,
    lot: int = LOT,
) -> Row:
    """Test accuracy in percent at the end; ε from the run's ledger and the release of the directions."""
    started = time.perf_counter()
    noise = float(case["pca_noise_multiplier"] or 0.0)
    federation = projected(held, noise, seed)
    plan = plan_of(case, epochs=epochs, steps=steps, rate=rate, lot=lot)
    run = fp.run(federation, plan, seed=seed, evaluate_every=epochs, progress=False)
    spent: Row = {}
    if noise:
        spent = epsilons(
            fp.Ledger(threat=run.ledger.threat, population=1, events=[directions_event(noise), *run.ledger.events])
        )
    accuracy = 100 * run.frame["accuracy"].iloc[-1]
    return {
        **row_of(case),
        "epochs": epochs,
        "seed": seed,
        "fedpriv": f"{accuracy:.2f}",
        "seconds": round(time.perf_counter() - started),
        **spent,
    }


def row_of(case: Row) -> Row:
    """What a published row and a measured one share."""
    shared = ("item", "epsilon", "noise_multiplier", "pca_noise_multiplier", "epochs")
    return {**{name: case[name] for name in shared}, "published": case["value"]}


def published(item: str) -> list[Row]:
    return reproduction.read(HERE / "published.csv", item=item)


def write(path: Path, rows: Sequence[Row]) -> None:
    """All rows at once, after each run: whatever is finished counts."""
    reproduction.write(
        path,
        rows,
        columns=COLUMNS,
        environment=reproduction.environment("numpy", "torch", "dp-accounting", machine=True),
    )


def still(cases: Iterable[Row], seeds: Sequence[int], finished: Iterable[Row]) -> Iterator[tuple[Row, int]]:
    """Every run that is still to be made."""
    done = {(row["epsilon"], int(row["seed"])) for row in finished}
    yield from ((case, seed) for case in cases for seed in seeds if (case["epsilon"], seed) not in done)


def main(arguments: list[str] | None = None) -> int:
    parser = reproduction.parser(__doc__, quick="the accountant, and ten lots on small data")
    parser.add_argument("--epsilons", nargs="*", help='train only for these: 0.5, 2, 8, or "none" without privacy')
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="only these")
    chosen = parser.parse_args(arguments)
    target = reproduction.target(chosen, HERE)
    rows: list[Row] = []

    def tell(row: Row) -> None:
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items() if value not in ("", None)), flush=True)

    for row in accountant():
        tell(row)
    cases = published("accuracy")
    if chosen.quick:
        held = fp.data.digits(clients=1, seed=0)
        tell(train(cases[0], 0, held, epochs=2, steps=10, rate=0.1, lot=144))
    else:
        assert target is not None
        rows += reproduction.read(target, item="accuracy") if target.exists() else []
        wanted = [case for case in cases if chosen.epsilons is None or (case["epsilon"] or "none") in chosen.epsilons]
        held = fp.data.mnist(clients=1, seed=0)
        for case, seed in still(wanted, chosen.seeds, [row for row in rows if row["item"] == "accuracy"]):
            tell(train(case, seed, held, epochs=int(case["epochs"] or epochs_of(case))))
            write(target, rows)
    if target:
        write(target, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
