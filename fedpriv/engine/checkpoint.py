"""Checkpoints: a run, written down every few rounds, from which it goes on bit for bit.

A folder holds the checkpoints of one run, the two latest ones; :mod:`fedpriv.engine.files` writes and reads them.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fedpriv.encoding import Reals
from fedpriv.engine import files
from fedpriv.engine.resolution import Resolved
from fedpriv.engine.rounds import RoundRecord, State, first_state, planned_events
from fedpriv.engine.values import Reader, Writer
from fedpriv.errors import CheckpointError, ConfigurationError
from fedpriv.randomness import NoiseSource

_NAME = re.compile(r"round-\d{6,}\.checkpoint")
_BEGUN = "begun.json"
_KEEP = 2
_VERSIONS = ("fedpriv", "numpy", "torch")


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished round: what is kept of it."""

    record: RoundRecord
    metrics: Mapping[str, float]
    evaluate_seconds: float
    """Wall-clock of measuring the model, NaN where it was not."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A run as a checkpoint holds it."""

    done: tuple[Done, ...]
    state: State
    mean: Reals | None
    ended: str
    """Why the run is over: ``"all rounds"``, or who stopped it; empty while it is not."""


class Checkpoint:
    """The folder of one run, which no other run uses until it is closed.

    Args:
        folder: made where it is missing; one folder per run.
        resolved: the plan and its federation.
        about: what else determines the run (its seed, above all), as plain values.
        noise: the run's noise source.
        every: rounds between two checkpoints. Under ``noise="os"`` every round is one, see below.

    Raises:
        CheckpointError: the folder cannot be written to, or another run is using it.

    Guarantees: a run that goes on from a checkpoint yields the same models, records and ledger as one that never
        stopped, bit for bit, where the noise is seeded, and versions, machine and threads are the same. Apart are
        timings, and the sizes of ciphertexts that are compressed. Deployments are made anew, with fresh keys, and are
        never written down: no key serves two attempts at one round. Where clients decrypt aggregates, those that they
        missed are counted as if the keys had stayed.
    Assumes: whoever can write to the folder is trusted with the run's results, as the hash is against damage, not
        forgery. Reading a checkpoint runs no code that it names: it holds JSON and arrays, never pickles. States of
        clients, mechanisms and server optimisers are therefore made of numbers, text, arrays, tensors, containers and
        dataclasses on a module's top level. Whatever a plan calls by name (its model, a user's algorithm) is taken to
        be what it was: a changed function of the same name is not noticed.
    Does not hide: anything. A checkpoint holds the seed, the records and clients' states: it is the simulator's, and
        as secret as the seed where sampling amplifies. It goes where the data may go.
        Under ``noise="os"`` (the run's, or a client's own) every round is a checkpoint. An interrupted one is done
        again with fresh noise, so that its model is another, and what the interrupted attempt may have released is
        charged as well: a round is noted down before it begins. ε after a resume is then larger than without an
        interruption, and right. With seeded noise the attempt is repeated to the bit, and releases nothing new.
    """

    def __init__(
        self, folder: str | Path, resolved: Resolved, about: Mapping[str, Any], *, noise: NoiseSource, every: int
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ConfigurationError("A checkpoint comes every k-th round, k ≥ 1.", value=every, remedy="Use every=10.")
        self.folder = Path(folder)
        self._resolved, self._noise = resolved, noise
        self._fresh = "os" in (noise, getattr(resolved.plan.client, "noise", None))
        self._every = 1 if self._fresh else every
        self._identity = _plain({**about, "plan": resolved.plan.describe(), **_federation(resolved)})
        self._events: list[str] = []
        self._done: list[str] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise CheckpointError(
                "Checkpoints go into a folder.", value=str(folder), remedy="Name one that can be written to."
            ) from error
        self._held = files.hold(self.folder)

    def close(self) -> None:
        """Leave the folder to others."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def due(self, rounds: int) -> bool:
        """Whether a checkpoint is due after this many rounds."""
        return rounds % self._every == 0

    def begin(self, round: int) -> None:
        """Note that a round begins. Only where its release could not be repeated."""
        if self._fresh:
            files.write(self.folder / _BEGUN, json.dumps({"round": round, "identity": self._identity}).encode())

    def save(self, saved: Saved) -> None:
        """Write a checkpoint down; the one before the last is removed.

        Raises:
            CheckpointError: a state holds what cannot be kept, or there is no room for it.
        """
        writer = Writer()
        # Releases are never changed, nor are rounds, but for what may yet be measured after the last one: each is
        # written once, as text without arrays.
        del self._done[max(0, len(saved.done) - 1) :]
        for done in saved.done[len(self._done) :]:
            self._done.append(_text(done, f"round {done.record.round + 1}"))
        for event in saved.state.ledger.events[len(self._events) :]:
            self._events.append(_text(event, "the ledger"))
        state = saved.state
        head = {
            "identity": self._identity,
            "versions": _versions(),
            "ended": saved.ended,
            "server": writer.write(state.server, "the server's state"),
            "mechanism": writer.write(state.mechanism, "the mechanism's state"),
            "clients": [
                [index, writer.write(kept, f"the state of client {index}")] for index, kept in state.clients.items()
            ],
            "delivery": writer.write(state.delivery, "delivery"),
            "key_bytes": state.key_bytes,
            "mean": writer.write(saved.mean, "mean"),
        }
        lines = [json.dumps(head), str(len(saved.done)), *self._done, *self._events]
        files.write(self.folder / f"round-{len(saved.done):06d}.checkpoint", files.pack(lines, writer.arrays))
        for old in self._files()[_KEEP:]:
            old.unlink(missing_ok=True)

    def load(self) -> Saved | None:
        """The latest checkpoint that is whole; None in a folder without any. A damaged one is told of by a warning.

        Raises:
            CheckpointError: it is of another run, and says in which fields; there are checkpoints, and all are damaged:
                work is never silently begun again.
        """
        saved = self._latest()
        if not self._fresh or (begun := self._begun()) is None:
            return saved
        if saved is None:
            key_bytes = self._resolved.plan.aggregation.deploy(self._resolved.terms).key_bytes
            saved = Saved(done=(), state=first_state(self._resolved, self._seed, key_bytes), mean=None, ended="")
        if not saved.ended:
            # Rounds that had begun, and may have released something, when the run was interrupted. That they are
            # charged is kept before another one begins.
            for round in range(saved.state.round, begun + 1):
                for event in planned_events(self._resolved, saved.state, self._seed, self._noise, round):
                    saved.state.ledger.append(event)
            self.save(saved)
        return saved

    def _latest(self) -> Saved | None:
        there = self._files()
        for number, file in enumerate(there):
            try:
                (first, *lines), arrays = files.read(file)
                head = json.loads(first)
            except (OSError, ValueError, KeyError, EOFError) as error:
                rest = "; the one before it is used." if number + 1 < len(there) else "."
                warnings.warn(f"The checkpoint {file} is damaged ({error}){rest}", RuntimeWarning, stacklevel=4)
                continue
            self._check(file, head["identity"])
            self._compare_versions(file, head["versions"])
            return self._restored(head, lines, arrays)
        if there:
            raise CheckpointError(
                "One of the checkpoints in a folder can be read.",
                value=[str(file) for file in there],
                remedy="Remove them to start anew.",
            )
        return None

    def _files(self) -> list[Path]:
        """The checkpoints, the latest first."""
        there = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(there, key=lambda path: int(path.stem.removeprefix("round-")), reverse=True)

    def _check(self, file: Path, identity: Mapping[str, Any]) -> None:
        differing = _differences(identity, self._identity)
        if differing:
            raise CheckpointError(
                "A run goes on from a checkpoint of the same plan, federation, seed, noise, device and callbacks.",
                value=f"{file}: {'; '.join(differing)} (there → here)",
                remedy="Run what it is of, or choose another folder.",
            )

    @staticmethod
    def _compare_versions(file: Path, there: Mapping[str, str]) -> None:
        here = _versions()
        if there != here:
            changed = [f"{name} {there.get(name)} → {here[name]}" for name in here if there.get(name) != here[name]]
            warnings.warn(
                f"The checkpoint {file} was written by other versions ({', '.join(changed)}): bits may differ from an "
                "uninterrupted run's.",
                RuntimeWarning,
                stacklevel=5,
            )

    def _restored(self, head: Mapping[str, Any], lines: Sequence[str], arrays: list[Any]) -> Saved:
        reader = Reader(arrays, self._resolved.plan)
        rounds = int(lines[0])
        self._done, self._events = list(lines[1 : 1 + rounds]), list(lines[1 + rounds :])
        ledger = self._resolved.new_ledger()
        for line in self._events:
            ledger.append(reader.read(json.loads(line)))
        state = State(
            server=reader.read(head["server"]),
            mechanism=reader.read(head["mechanism"]),
            clients={index: reader.read(kept) for index, kept in head["clients"]},
            ledger=ledger,
            key_bytes=head["key_bytes"],
            delivery=reader.read(head["delivery"]),
            round=rounds,
        )
        done = tuple(reader.read(json.loads(line)) for line in self._done)
        return Saved(done=done, state=state, mean=reader.read(head["mean"]), ended=head["ended"])

    @property
    def _seed(self) -> int:
        return int(self._identity["seed"])

    def _begun(self) -> int | None:
        """The last round that began."""
        file = self.folder / _BEGUN
        try:
            content = json.loads(file.read_bytes())
            round, identity = int(content["round"]), content["identity"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                "It is known which round had begun: what it released counts.",
                value=str(file),
                remedy="Start anew in another folder.",
            ) from error
        self._check(file, identity)
        return round


def _federation(resolved: Resolved) -> dict[str, Any]:
    federation = resolved.federation
    return {"federation": {"name": federation.name, "sha256": federation.fingerprint}, "batching": resolved.batching}


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _text(value: Any, where: str) -> str:
    writer = Writer()
    text = json.dumps(writer.write(value, where))
    if writer.arrays:
        raise CheckpointError(
            "What is recorded of a round holds plain numbers.", value=where, remedy="Report metrics as float(value)."
        )
    return text


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    """The fields in which two descriptions differ, by dotted names."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = list(dict.fromkeys([*there, *here]))
        absent = "absent"
        return [
            found
            for key in names
            for found in _differences(there.get(key, absent), here.get(key, absent), f"{name}.{key}".lstrip("."))
        ]
    if isinstance(there, list) and isinstance(here, list):
        pairs = enumerate(zip_longest(there, here, fillvalue="absent"))
        return [found for number, pair in pairs for found in _differences(*pair, f"{name}[{number}]")]
    if there == here or (there != there and here != here):
        return []
    return [f"{name}: {_short(there)} → {_short(here)}"]


def _short(value: Any) -> str:
    text = str(value["type"]) if isinstance(value, dict) and "type" in value else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
