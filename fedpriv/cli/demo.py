"""The main job in one command: what protection costs, what it guarantees, and against whom."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fedpriv as fp
from fedpriv.engine.explain import learns
from fedpriv.report.saving import check_replaceable, provenance, save
from fedpriv.report.tables import latex, text
from fedpriv.study.rows import per_round

if TYPE_CHECKING:
    import pandas as pd

    from fedpriv.aggregation.protocol import Aggregator

EPSILONS = (1.0, 2.0, 5.0, 10.0)
DELTA = 1e-5
SEED = 7


def protocols() -> dict[str, Aggregator]:
    """The five ways to a sum."""
    return {
        "plain": fp.PlainSum(),
        "masking": fp.SecureAggregation(),
        "CKKS": fp.CKKS(keys=fp.KeyAuthority()),
        "BFV": fp.BFV(keys=fp.KeyAuthority()),
        "Paillier": fp.Paillier(keys=fp.KeyAuthority()),
    }


def demo(out: str | Path, *, clients: int, rounds: int, seeds: int, say: Callable[[str], None] = print) -> Path:
    """Run the comparison, print it, and save tables and figure.

    Args:
        out: the folder.
        clients: of the digits federation.
        rounds: of training.
        seeds: of the trade-off curve.
        say: where lines go.
    """
    started = time.perf_counter()
    check_replaceable(out)
    federation = fp.data.digits(clients=clients, partition=fp.data.IID(), seed=0)
    plan = fp.Plan(
        model=fp.models.logistic,
        client=fp.LocalSGD(steps=5, learning_rate=0.3),
        mechanism=fp.NoDP(bits=16),
        rounds=rounds,
    )
    noise = {f"ε = {epsilon:g}": _private(epsilon) for epsilon in EPSILONS}
    say(f"fedpriv {fp.__version__}: {federation.name}, {clients} clients with {federation.sizes.mean():.0f} examples")
    say(f"each, full participation, logistic regression; rounds: {rounds}.\n")

    table, views = _compare_protocols(federation, plan, {"none": plan.mechanism, "ε = 2": noise["ε = 2"]})
    say("Who learns what of a round. Besides, whoever holds the exact sum adds the noise, if any, and releases the")
    say("mean to the server; server and clients see each round's model, the public sees the last one:\n")
    say(text(views, max_width=70))
    say("\nOne federation, five protocols. Bytes and milliseconds are of a real round, every message sent, averaged")
    say("over its clients. The model is the same under every protocol, bit for bit, after that round and at the end:\n")
    say(text(table))

    study = fp.compare(
        federation, fp.grid(plan, mechanism=[*noise.values(), plan.mechanism]), seeds=range(seeds), delta=DELTA
    )
    if study.partial:
        raise KeyboardInterrupt
    curve = study.table(["accuracy", "epsilon"]).drop(columns="federation")
    say(f"\nWhat ε costs, against whoever sees the models (client level, zero-out, δ = {DELTA:g}, seeds: {seeds}):\n")
    say(text(curve))
    folder = save(
        out,
        tables={"protocols": table, "who_learns_what": views, "trade_off": curve, "runs": study.frame},
        documents={"demo": {"plan": plan.describe(), "federation": federation.fingerprint, **provenance()}},
        figures={"demo": _figure(study.frame, table)},
        texts={"protocols.tex": latex(table, _CAPTION), "trade_off.tex": latex(curve, "Accuracy against ε.")},
    )
    say(f"\nSaved to {folder} (CSV, JSON, PNG, PDF, LaTeX) after {time.perf_counter() - started:.0f} s.")
    return folder


_CAPTION = (
    "One federation under five protocols. Bytes and milliseconds are of one real round, averaged over its clients; "
    "accuracy and ε are after the last round."
)


def _private(epsilon: float) -> fp.CentralGaussian:
    return fp.CentralGaussian(clip_norm=1.0, bits=16, target=fp.Budget(epsilon=epsilon, delta=DELTA, observer="public"))


def _compare_protocols(
    federation: fp.data.Federation, plan: fp.Plan, mechanisms: Mapping[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per protocol and mechanism: the real first round for its costs, the whole run for accuracy and ε."""
    import pandas as pd

    rows, views = [], []
    next(fp.rounds(federation, plan, seed=SEED))  # unmeasured: the first round of a process loads code
    for (noise, mechanism), (name, protocol) in itertools.product(mechanisms.items(), protocols().items()):
        _note(f"{name}, noise {noise}: a real round …")
        resolved = replace(plan, aggregation=protocol, mechanism=mechanism).resolve(federation)
        real = next(fp.rounds(federation, resolved, seed=SEED))
        ideal = fp.run(federation, resolved, seed=SEED, ideal=True, evaluate_every=plan.rounds, progress=False)
        if ideal.partial:
            raise KeyboardInterrupt
        if real.record.sha256 != ideal.records[0].sha256:
            raise AssertionError(f"{name}: the real round and the ideal one differ")
        costs, summary = per_round(real.record), ideal.summary(DELTA)
        rows.append(
            {
                "protocol": name,
                "noise": noise,
                "accuracy": summary["accuracy"],
                "ε server": summary["epsilon_server"],
                "ε authority": summary.get("epsilon_authority", float("nan")),
                "ε participant": summary["epsilon_participant"],
                "ε public": summary["epsilon_public"],
                "sent, kB": costs["client_bytes_up"] / 1e3,
                "received, kB": costs["client_bytes_down"] / 1e3,
                "key once, kB": summary["client_key_bytes"] / 1e3,
                "client, ms": 1e3 * costs["client_seconds"],
                "server + authority, ms": 1e3 * costs["server_seconds"],
                "SHA-256, real round": real.record.sha256[:12],
                "SHA-256, final": ideal.sha256[:12],
            }
        )
        if noise == "none":
            seen = learns(protocol.threat_model)
            views.append(
                {"protocol": name, **{party: seen.get(party, "–") for party in ("server", "client", "authority")}}
            )
    _note("")
    return pd.DataFrame(rows), pd.DataFrame(views)


def _figure(runs: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Left: what ε costs. Right: what each protocol costs."""
    from fedpriv.report import figures

    figure, (left, right) = figures.new_figure(columns=2)
    figures.trade_off(runs, "epsilon", "accuracy", axes=left)
    left.set_xlabel("ε against whoever sees the models")
    costs = table[table["noise"] == "none"]
    figures.bars(right, costs, "protocol", {"sent, kB": "sent per client, kB", "client, ms": "client's processor, ms"})
    right.set_title("one real round, the same model", fontsize="medium")
    left.set_title("what privacy costs in accuracy", fontsize="medium")
    return figure


def _note(words: str) -> None:
    """A line of progress that is overwritten; on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)
