"""One private sum: the mean of vectors, without training, through the very same round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedpriv.aggregation import PlainSum
from fedpriv.aggregation.protocol import Aggregator
from fedpriv.data import Client, Federation
from fedpriv.encoding import Reals
from fedpriv.engine.plan import Plan
from fedpriv.errors import DataError
from fedpriv.learning.server import RoundInfo
from fedpriv.learning.update import Broadcast, ClientState, Update
from fedpriv.learning.vector import Vector
from fedpriv.network import Network
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.mechanism import Adjacency, Mechanism
from fedpriv.privacy.mechanisms.no_dp import NoDP
from fedpriv.randomness import NoiseSource
from fedpriv.study.runs import Run, run

if TYPE_CHECKING:
    import torch

_ENTRY = "vector"


@dataclass(frozen=True, kw_only=True, eq=False)
class PrivateMean:
    """What :func:`private_mean` returns."""

    mean: Reals
    """``[d] float64``: the released mean."""
    run: Run

    @property
    def ledger(self) -> Ledger:
        """The one release, and its ε per observer."""
        return self.run.ledger

    @property
    def costs(self) -> Any:
        """Bytes and seconds per stage and role, as a data frame."""
        return self.run.costs

    @property
    def contributors(self) -> tuple[int, ...]:
        """Whose vectors are in the mean."""
        return self.run.records[0].contributors


def private_mean(
    vectors: npt.ArrayLike,
    *,
    mechanism: Mechanism | None = None,
    aggregation: Aggregator | None = None,
    network: Network | None = None,
    adjacency: Adjacency = "zero-out",
    seed: int,
    noise: NoiseSource = "seeded",
    ideal: bool = False,
) -> PrivateMean:
    """The mean of clients' vectors under a mechanism and a protocol.

    Args:
        vectors: ``[n, d]``, one row per client; held as float32.
        mechanism: clipping and noise; by default ``NoDP(weighting="equal")``, which cuts coordinates to its ``limit``
            of ±4 (``run.frame`` counts them).
        aggregation: the protocol; by default a plain sum.
        network: dropouts and bandwidth.
        adjacency: of the privacy statement.
        seed: of everything that is simulated.
        noise: see :func:`fedpriv.run`.
        ideal: see :func:`fedpriv.run`.

    Raises:
        DataError: not ``[n, d]``, or a value that is not finite.
        PlanError: the parts do not go together.
        RoundAborted: no sum, and no mean was released; its ``ledger`` says what the attempt amounts to.
    """
    try:
        rows = np.asarray(vectors)
    except ValueError:  # numpy refuses rows of different lengths
        raise DataError("Vectors are [n, d]: all of one length.", remedy="Pad or cut them to one length.") from None
    if rows.ndim != 2 or 0 in rows.shape:
        raise DataError("Vectors are [n, d], one row per client.", value=rows.shape, remedy="Stack them into a matrix.")
    plan = Plan(
        model=None,
        client=_Vectors(),
        mechanism=NoDP(weighting="equal") if mechanism is None else mechanism,
        aggregation=PlainSum() if aggregation is None else aggregation,
        server=_KeepMean(),
        rounds=1,
        network=Network() if network is None else network,
        adjacency=adjacency,
    )
    result = run(_federation(rows), plan, seed=seed, noise=noise, ideal=ideal, on_abort="raise", progress=False)
    return PrivateMean(mean=result.mean, run=result)


def _federation(rows: npt.NDArray[Any]) -> Federation:
    """Each row is the one example of a client; labels and test set are there for the form."""
    label = np.zeros(1, dtype=np.int64)
    clients = tuple(Client(index=i, name=str(i), x=row[None], y=label) for i, row in enumerate(rows))
    return Federation(name="vectors", clients=clients, test_x=np.zeros_like(rows[:1]), test_y=label, classes=2)


@dataclass(frozen=True, kw_only=True)
class _Vectors:
    """A client's update is its vector."""

    record_level: bool = False

    def payload(self, parameters: int) -> Mapping[str, int]:
        return {_ENTRY: parameters}

    def init(self, client: Client) -> ClientState:
        return None

    def train(
        self,
        model: torch.nn.Module,
        broadcast: Broadcast,
        clients: Sequence[Client],
        states: Sequence[ClientState],
        rngs: Sequence[np.random.Generator],
    ) -> list[Update]:
        return [Update(payload={_ENTRY: client.x[0]}) for client in clients]


@dataclass(frozen=True, kw_only=True)
class _KeepMean:
    """The server keeps the mean as it is."""

    def init(self, parameters: Vector) -> Vector:
        return parameters

    def step(self, state: Vector, mean: Mapping[str, Vector], info: RoundInfo) -> Vector:
        return mean[_ENTRY]

    def broadcast(self, state: Vector) -> Broadcast:
        return Broadcast(parameters=state)
