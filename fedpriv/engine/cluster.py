"""Workers that are Ray actors: on this machine, or over a cluster.

Two machines, with the same Python, fedpriv and Ray on both::

    first$  ray start --head --port=6379
    second$ ray start --address=first:6379
    first$  python study.py

where ``study.py`` says::

    run = fp.run(federation, plan, seed=7, executor=fp.Ray(address="auto"))

The federation travels once to each machine, and a round costs each worker one message for each stage. What the script
itself defines travels along; what it imports must be installed on every machine (``pip install "fedpriv[ray]"``). Bits
are those of one process where the machines are of one kind: the same processor instructions, numpy and torch.

Whoever reaches Ray's ports commands the cluster: keep it in a network of its own. With ``export RAY_AUTH_MODE=token``
on every machine before ``ray start``, and the token of ``ray get-auth-token --generate`` copied to each, Ray refuses
whoever has no token.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fedpriv.crypto import prg
from fedpriv.engine.crews import WorkerCrew
from fedpriv.engine.processes import check_workers
from fedpriv.engine.workers import DONE, Command, Home, Worker, loads, ordered, pack, performed
from fedpriv.errors import ConfigurationError, WorkerLost

BATCH_BYTES, BATCH_SECONDS = 1 << 20, 0.5
"""Answers travel together until they are this large or this old."""
SMALL = 1 << 16
"""Bytes up to which a parcel travels with its command instead of through the object store."""
_REACH = 5.0
"""Seconds to answer for an address."""
_ROOM = 60.0
"""Seconds in which the cluster finds room for a worker."""
_SAME = ("fedpriv", "numpy", "torch")


@dataclass(frozen=True)
class Ray:
    """Work spread over a Ray cluster, one long-lived actor for each worker. Needs ``pip install "fedpriv[ray]"``.

    Ray that this process has initialised is used, and left running; else it is connected to, or started on this
    machine, for the length of the run. A worker that is lost is replaced as with :class:`fedpriv.Processes`; where the
    cluster has no room for another, the rest go on.

    Args:
        address: ``"auto"``, the cluster that this machine belongs to; or ``"host:port"`` of its head, from one of the
            cluster's machines. None: Ray as this process has initialised it, or else a Ray of this machine alone.
        workers: how many, each with one core; by default as many as there are cores.

    Raises:
        ConfigurationError: not an address, or not a positive integer.
    """

    address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        check_workers(self.workers)
        if self.address is None or self.address == "auto":
            return
        host, _, port = str(self.address).rpartition(":")
        if not (isinstance(self.address, str) and host and "/" not in host and port.isdecimal()):
            raise ConfigurationError(
                'The address of a Ray cluster is "auto" or "host:port".',
                value=self.address,
                remedy='Run the script on a machine of the cluster, with address="auto".',
            )

    def start(self) -> WorkerCrew:
        """See :class:`fedpriv.engine.executors.Executor`.

        Raises:
            ConfigurationError: Ray is not installed, not reachable, or has no room for the workers.
        """
        try:
            import ray
        except ImportError as error:
            raise ConfigurationError(
                "Ray is installed where executor=Ray() is used.", remedy='pip install "fedpriv[ray]"'
            ) from error
        cluster = _Cluster(ray, own=_connect(ray, self.address, self.workers))
        return WorkerCrew(cluster, self.workers or cluster.cores())


# --- the connection -------------------------------------------------------------------------------------------------


def _connect(ray: Any, address: str | None, workers: int | None) -> bool:
    """Have Ray initialised; whether it was done here."""
    if ray.is_initialized():
        there = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", there):
            raise ConfigurationError(
                f"This process has initialised Ray at {there}.",
                value=address,
                remedy="Call ray.shutdown() before, or give Ray() no address.",
            )
        return False
    quiet = {"include_dashboard": False, "configure_logging": False}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local Ray reports to nobody
        ray.init("local", num_cpus=workers, **quiet)
        return True
    try:
        _reach(_resolved(address))
        ray.init(address, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            "A Ray cluster answers at its address.",
            value=f"{address}: {error}",
            remedy="Start it with `ray start --head`, let other machines join with `ray start --address=host:port`, "
            "and run the script on one of them, with the same RAY_AUTH_MODE.",
        ) from error
    return True


def _resolved(address: str) -> str:
    """What ``"auto"`` stands for."""
    if address != "auto":
        return address
    from ray._private.services import canonicalize_bootstrap_address

    return str(canonicalize_bootstrap_address(address))


def _reach(address: str) -> None:
    """Make sure that somebody speaks gRPC there: Ray itself would try for minutes, and then end this process.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH) as line:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")  # RFC 9113, 3.4: preface, SETTINGS
        answer = line.recv(9)
    if answer[3:4] != b"\4":
        raise ConnectionError("what answers is no Ray")


# --- the line -------------------------------------------------------------------------------------------------------


class _Cluster:
    """Makes actors; see :class:`fedpriv.engine.workers.Office`."""

    def __init__(self, ray: Any, *, own: bool) -> None:
        self._ray, self._own = ray, own
        # An actor is never restarted by Ray: what it held would be gone without a word.
        self._make = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(_Actor)

    def cores(self) -> int:
        """The cluster's."""
        return int(self._ray.cluster_resources().get("CPU", 1))

    def hire(self, count: int) -> list[Worker]:
        actors = [self._make.remote() for _ in range(count)]
        greetings = [actor.greet.remote(sys.path) for actor in actors]
        try:
            if count > self.cores():
                raise _no_room(count, self.cores())
            there, missing = self._ray.wait(greetings, num_returns=count, timeout=_ROOM)
            if missing:
                raise _no_room(count, len(there))
            greeted = self._ray.get(greetings)
            for _, versions in greeted:
                _check_same(versions)
        except BaseException as error:
            for actor in actors:
                self._ray.kill(actor)
            if isinstance(error, self._ray.exceptions.RayError):
                raise ConfigurationError(
                    "Every machine of the cluster can start a worker.",
                    value=str(error),
                    remedy='Install the same "fedpriv[ray]" on all of them.',
                ) from error
            raise
        return [_Line(self._ray, actor, pid) for actor, (pid, _) in zip(actors, greeted, strict=True)]

    def parcel(self, data: bytes) -> Any:
        return data if len(data) <= SMALL else self._ray.put(data)

    def ready(self, workers: Collection[Any]) -> Sequence[Any]:
        awaited = {worker.awaited: worker for worker in workers}
        self._ray.wait(list(awaited), num_returns=1)
        there, _ = self._ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        return [awaited[answers] for answers in there]

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()


class _Line:
    """To an actor; see :class:`fedpriv.engine.workers.Worker`. Ray does its calls one after the other."""

    def __init__(self, ray: Any, actor: Any, pid: int) -> None:
        self._ray, self._actor, self.pid = ray, actor, pid
        self.awaited: Any = None
        """The answers under way, if any."""

    def ask(self, command: Command, *arguments: Any, parcel: Any = None) -> None:
        self.cancel()
        self.awaited = self._actor.begin.remote(ordered(command, arguments), parcel)

    def tell(self, command: Command) -> None:
        self._actor.begin.remote(ordered(command, ()), None)

    def cancel(self) -> None:
        if self.awaited is not None:
            self.awaited = None
            self._actor.stop.remote()

    def answers(self) -> list[Any]:
        try:
            packed = self._ray.get(self.awaited)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            self.awaited = None
            raise WorkerLost(
                "A worker lives as long as the run.",
                value=f"Ray's process {self.pid}: {str(error).splitlines()[0]}",
                remedy="Look for what killed it (memory, above all), or run with fewer workers.",
            ) from error
        answers = [loads(answer) for answer in packed]
        # The next ones are on their way while these are worked on.
        self.awaited = None if answers[-1] is DONE else self._actor.more.remote()
        return answers

    def end(self) -> None:
        self.awaited = None
        self._ray.kill(self._actor)


class _Actor:
    """The worker. A command's answers wait until they are fetched."""

    def __init__(self) -> None:
        prg.use_cores(1)
        self._home = Home()
        self._answers: Iterator[bytes] = iter(())

    def greet(self, path: Sequence[str]) -> tuple[int, dict[str, str]]:
        sys.path += [place for place in path if place not in sys.path]  # what lies beside the script, where it does
        return os.getpid(), _versions()

    def begin(self, order: bytes, parcel: bytes | None) -> list[bytes]:
        self._answers = performed(self._home, order, parcel)
        return self.more()

    def more(self) -> list[bytes]:
        batch, size, since = [], 0, time.monotonic()
        for answer in self._answers:
            batch.append(answer)
            size += len(answer)
            if size >= BATCH_BYTES or time.monotonic() - since >= BATCH_SECONDS:
                return batch
        return [*batch, pack(DONE)]

    def stop(self) -> None:
        self._answers = iter(())


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _SAME}


def _check_same(there: dict[str, str]) -> None:
    here = _versions()
    differing = [f"{name} {there.get(name)} instead of {here[name]}" for name in _SAME if there.get(name) != here[name]]
    if differing:
        raise ConfigurationError(
            "Every machine of the cluster has the same versions.",
            value=", ".join(differing),
            remedy="Install the same ones everywhere: with others the bits differ.",
        )


def _no_room(wanted: int, found: int) -> ConfigurationError:
    return ConfigurationError(
        "Each worker has a core of the cluster.",
        value=f"{wanted} workers, {found} cores",
        remedy="Ask for fewer workers, wait until others have left, or let another machine join.",
    )
