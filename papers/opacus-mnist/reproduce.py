"""Opacus' MNIST example by fedpriv: ``python papers/opacus-mnist/reproduce.py [--quick]``."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fedpriv as fp
from fedpriv.data import federate
from fedpriv.report import reproduction
from fedpriv.report.reproduction import Row

HERE = Path(__file__).resolve().parent
DELTA = 1e-5
RATE = 0.004
STEPS = 250
"""Of an epoch: 1 / RATE."""
BATCH = 240
"""Expected: RATE · 60,000."""
MEAN, DEVIATION = 0.1307, 0.3081
"""Of MNIST's pixels, as in the example: public constants."""
ORDER = ("eps 1.16", "no DP", "eps 6.86", "eps 2.91")
SEEDS = (0, 1, 2)
COLUMNS = (
    *("row", "seed", "epochs", "steps", "accuracy", "seconds"),
    *("epsilon_rdp_classic", "epsilon_rdp", "epsilon_pld", "published_epsilon", "published_accuracy"),
)


class MaxPool(nn.Module):
    """Maxima over 2 × 2 pixels at stride 1: torch's own, in the layout in which it is fast."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.max_pool2d(x.contiguous(memory_format=torch.channels_last), 2, 1)
        # Opacus' convolutions take per-example gradients of this layout only.
        return pooled.contiguous()


def network() -> nn.Module:
    """The example's SampleConvNet: 26,010 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 8, stride=2, padding=3), nn.ReLU(), MaxPool()),
        *(nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), MaxPool()),
        *(nn.Flatten(), nn.Linear(32 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def mnist() -> fp.data.Federation:
    """MNIST at one client, pixels standardised by the example's constants."""
    held = fp.data.mnist(clients=1, seed=0)
    (client,) = held.clients
    return one_client((client.x, client.y), (held.test_x, held.test_y))


def enlarged_digits() -> fp.data.Federation:
    """scikit-learn's 1,797 digits, enlarged to 28 × 28: for a quick run that needs no download."""
    held = fp.data.digits(clients=1, seed=0)
    (client,) = held.clients

    def larger(x: np.ndarray) -> np.ndarray:
        square = x.reshape(-1, 8, 8)
        return np.pad(square.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))[:, None]

    return one_client((larger(client.x), client.y), (larger(held.test_x), held.test_y))


def one_client(train: tuple[Any, Any], test: tuple[Any, Any]) -> fp.data.Federation:
    (x, y), (test_x, test_y) = train, test
    return federate(
        *((x - MEAN) / DEVIATION, y),
        clients=1,
        test=((test_x - MEAN) / DEVIATION, test_y),
        seed=0,
        classes=10,
        name="one client",
    )


def plan_of(case: Row, *, epochs: int, steps: int, batch: int) -> fp.Plan:
    """One client, one round an epoch; a sum that is one client's update, to 2^-29."""
    client: fp.LocalSGD | fp.DPSGD
    if case["noise_multiplier"]:
        client = fp.DPSGD(
            learning_rate=float(case["learning_rate"]),
            clip_norm=float(case["clip_norm"]),
            noise_multiplier=float(case["noise_multiplier"]),
            sampling_rate=RATE,
            expected_batch=batch,
            steps=steps,
        )
    else:
        client = fp.LocalSGD(epochs=1, batch_size=batch, learning_rate=float(case["learning_rate"]))
    return fp.Plan(
        model=network,
        client=client,
        mechanism=fp.NoDP(weighting="equal", limit=4.0, bits=32),
        aggregation=fp.PlainSum(),
        rounds=epochs,
    )


def epsilons(ledger: fp.Ledger) -> Row:
    """ε per record by the conversion of papers before about 2020, by today's, and by PLD."""

    def spent(**how: Any) -> str:
        return f"{ledger.epsilon(DELTA, observer='server', unit='record', **how):.4f}"

    return {
        "epsilon_rdp_classic": spent(accountant="rdp", conversion="classic"),
        "epsilon_rdp": spent(accountant="rdp"),
        "epsilon_pld": spent(accountant="pld"),
    }


def promised(case: Row) -> Row:
    """ε of a row before anything is trained: the ledger of so many participations of the one client."""
    if not case["noise_multiplier"]:
        return {}
    plan = plan_of(case, epochs=int(case["epochs"]), steps=STEPS, batch=BATCH)
    assert isinstance(plan.client, fp.DPSGD)
    turn = plan.client.participation(0)
    ledger = fp.Ledger(threat=plan.aggregation.threat_model, population=1, events=[turn] * plan.rounds)
    return epsilons(ledger)


def train(case: Row, seed: int, federation: fp.data.Federation, *, epochs: int, steps: int, batch: int) -> Row:
    """Test accuracy in percent at the end, and what it took."""
    plan = plan_of(case, epochs=epochs, steps=steps, batch=batch)
    started = time.perf_counter()
    run = fp.run(federation, plan, seed=seed, evaluate_every=epochs, progress=False)
    return {
        "row": case["row"],
        "seed": seed,
        "epochs": epochs,
        "steps": epochs * steps,
        "accuracy": f"{100 * run.frame['accuracy'].iloc[-1]:.2f}",
        "seconds": round(time.perf_counter() - started),
        **(epsilons(run.ledger) if case["noise_multiplier"] else {}),
    }


def train_by_opacus(
    case: Row, seed: int, federation: fp.data.Federation, *, epochs: int, steps: int, batch: int
) -> Row:
    """The same by Opacus' own engine, without fedpriv: whether a difference is fedpriv's. Its ε is not read."""
    from opacus import PrivacyEngine  # type: ignore[import-untyped]

    started = time.perf_counter()
    torch.manual_seed(seed)
    (client,) = federation.clients
    data = TensorDataset(torch.tensor(client.x), torch.tensor(client.y))
    model, optimizer, loader = PrivacyEngine().make_private(
        module=(net := network()),
        optimizer=torch.optim.SGD(net.parameters(), lr=float(case["learning_rate"])),
        data_loader=DataLoader(data, batch_size=batch),
        noise_multiplier=float(case["noise_multiplier"]),
        max_grad_norm=float(case["clip_norm"]),
    )
    assert len(loader) == steps
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()
    with torch.no_grad():
        right = net(torch.tensor(federation.test_x)).argmax(1) == torch.tensor(federation.test_y)
    return {
        "row": case["row"],
        "seed": seed,
        "epochs": epochs,
        "steps": epochs * steps,
        "accuracy": f"{100 * float(right.float().mean()):.2f}",
        "seconds": round(time.perf_counter() - started),
    }


def summary(rows: Iterable[Row], case: Row) -> str:
    """Mean accuracy of a row's runs beside the published one, and the combined standard error of the two means."""
    found = [float(row["accuracy"]) for row in rows if row["row"] == case["row"] and row["accuracy"]]
    published, spread, runs = float(case["accuracy"]), float(case["plus_minus"]), int(case["runs"])
    text = f"{case['row']:9} published {published:.2f} ± {spread:.2f} ({runs} runs)"
    if not found:
        return f"{text}: not run"
    mean = statistics.mean(found)
    text += f"; measured {mean:.2f} ({len(found)} runs), difference {mean - published:+.2f}"
    if len(found) > 1:
        error = (statistics.variance(found) / len(found) + spread**2 / runs) ** 0.5
        text += f", combined standard error {error:.2f}"
    return text


def published() -> dict[str, Row]:
    return {row["row"]: row for row in reproduction.read(HERE / "published.csv")}


def write(path: Path, rows: Sequence[Row]) -> None:
    """All rows at once, after each run: whatever is finished counts."""
    reproduction.write(
        path,
        rows,
        columns=COLUMNS,
        environment=reproduction.environment("numpy", "torch", "opacus", "dp-accounting", machine=True),
    )


def jobs(cases: Sequence[str], seeds: Sequence[int], finished: Iterable[Row]) -> Iterator[tuple[str, int]]:
    """Row and seed of every run that is still to be made."""
    done = {(row["row"], int(row["seed"])) for row in finished if row["accuracy"]}
    yield from ((name, seed) for name in cases for seed in seeds if (name, seed) not in done)


def main(arguments: list[str] | None = None) -> int:
    parser = reproduction.parser(__doc__, quick="every ε, and ten steps on small data")
    parser.add_argument("--rows", nargs="+", default=ORDER, choices=ORDER, help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="only these")
    parser.add_argument("--opacus", action="store_true", help="by Opacus alone, for comparison: into opacus.csv")
    chosen = parser.parse_args(arguments)
    table = published()
    target = reproduction.target(chosen, HERE, "opacus.csv" if chosen.opacus else "measured.csv")
    trained = train_by_opacus if chosen.opacus else train
    rows: list[Row] = []
    for name in ORDER:
        told = {f"published_{what}": table[name][what] for what in ("epsilon", "accuracy")}
        rows.append({"row": name, "seed": "", "accuracy": "", **promised(table[name]), **told})
        print({what: value for what, value in rows[-1].items() if value}, flush=True)
    if chosen.quick:
        small = enlarged_digits()
        rows.append(train(table["eps 1.16"], 0, small, epochs=1, steps=10, batch=6))
    else:
        assert target is not None
        rows += [row for row in reproduction.read(target) if row["accuracy"]] if target.exists() else []
        federation = mnist()
        for name, seed in jobs(chosen.rows, chosen.seeds, rows):
            found = trained(table[name], seed, federation, epochs=int(table[name]["epochs"]), steps=STEPS, batch=BATCH)
            rows.append({**rows[ORDER.index(name)], **found})
            print(found, flush=True)
            write(target, rows)
        for case in table.values():
            print(summary(rows, case))
    if target:
        write(target, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
