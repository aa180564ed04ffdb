"""Rounds of FedAvg by pfl and by Flower, as their documentation has it; run in the peers' environment (``make peers``).

One JSON line for each measurement of ``engine_peers.py '{"peer": "pfl", "data": "….npz", "points": […]}'``: seconds of
the median round after the first ones. Both train resident modules over data that lies in memory as tensors. pfl has one
process and one thread. Flower has an actor for each core (Ray), a thread in each; its clients keep module and data from
round to round, which is its best case.
"""

# mypy: disable-error-code="import-not-found, no-untyped-def, no-untyped-call, misc, no-any-return"

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import OrderedDict
from functools import cache, partial
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

FIRST = 2
"""Rounds that are not counted."""


def network(kind: str) -> nn.Module:
    """The models of the benchmark."""
    if kind == "logistic":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    wide = ((1, 16), (16, 32))
    blocks = [[nn.Conv2d(a, b, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)] for a, b in wide]
    layers = [layer for block in blocks for layer in block]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10))


class Data:
    """The federation: client → tensors."""

    def __init__(self, path: str) -> None:
        with np.load(path) as file:
            x, y, ends = file["x"], file["y"], file["ends"]
        edges = list(zip([0, *ends[:-1]], ends, strict=True))
        self.clients = [(torch.tensor(x[a:b]), torch.tensor(y[a:b])) for a, b in edges]

    def __len__(self) -> int:
        return len(self.clients)


def pfl(wanted: dict[str, Any], data: Data, kind: str, cohort: int, rounds: int) -> list[float]:
    """Seconds between the ends of pfl's rounds."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(kind)

        def forward(self, x):
            return self.net(x)

        def loss(self, x, y, eval=False):
            return cross_entropy(self.net(x), y)

        def metrics(self, x, y, eval=True):
            return {}

    class Clock(TrainingProcessCallback):
        def after_central_iteration(self, aggregate_metrics, model, **_):
            ends.append(time.perf_counter())
            return False, Metrics()

    ends: list[float] = []
    torch.set_num_threads(1)
    net = Net()
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    sampler = get_user_sampler("random", list(range(len(data))))
    users = FederatedDataset(lambda user: Dataset(list(data.clients[user]), user_id=str(user)), sampler)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds + FIRST,
            evaluation_frequency=rounds + FIRST + 1,
            train_cohort_size=cohort,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=users, val_data=users),
        model,
        NNTrainHyperParams(
            local_batch_size=wanted["batch"],
            local_num_epochs=1,
            local_learning_rate=wanted["rate"],
        ),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[Clock()],
    )
    return ends


@cache
def resident(path: str, kind: str) -> type:
    """A class of clients, with the data and the module that an actor of Flower keeps from round to round."""
    from flwr.client import NumPyClient

    torch.set_num_threads(1)
    data, net = Data(path), network(kind)

    class Client(NumPyClient):
        def __init__(self, index: int, batch: int, rate: float) -> None:
            self.index, self.batch, self.rate = index, batch, rate

        def fit(self, parameters, config):
            x, y = data.clients[self.index]
            values = (torch.from_numpy(p) for p in parameters)
            net.load_state_dict(OrderedDict(zip(net.state_dict(), values, strict=True)))
            optimizer = torch.optim.SGD(net.parameters(), lr=self.rate)
            for rows in torch.split(torch.randperm(len(y)), self.batch):
                optimizer.zero_grad()
                cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
            return [p.detach().numpy() for p in net.state_dict().values()], len(y), {}

    return Client


def client_of(path: str, kind: str, batch: int, rate: float, context: Any) -> Any:
    """The client of a node."""
    return resident(path, kind)(int(context.node_config["partition-id"]), batch, rate).to_client()


def flower(wanted: dict[str, Any], data: Data, kind: str, cohort: int, rounds: int) -> list[float]:
    """Seconds between the ends of Flower's rounds."""
    import engine_peers  # as the actors know it: what is in __main__ would travel with each of their tasks
    from flwr.client import ClientApp
    from flwr.common import ndarrays_to_parameters
    from flwr.server import ServerApp, ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.simulation import run_simulation

    given = (wanted["data"], kind, wanted["batch"], wanted["rate"])
    ends: list[float] = []

    class Clocked(FedAvg):
        def aggregate_fit(self, server_round, results, failures):
            if failures or len(results) != cohort:
                raise RuntimeError(f"{len(results)} of {cohort} clients answered: {failures[:1]}")
            done = super().aggregate_fit(server_round, results, failures)
            ends.append(time.perf_counter())
            return done

    def server(context):
        strategy = Clocked(
            fraction_fit=cohort / len(data),
            fraction_evaluate=0.0,
            min_fit_clients=cohort,
            min_available_clients=len(data),
            initial_parameters=ndarrays_to_parameters([p.numpy() for p in network(kind).state_dict().values()]),
        )
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds + FIRST))

    run_simulation(
        server_app=ServerApp(server_fn=server),
        client_app=ClientApp(client_fn=partial(engine_peers.client_of, *given)),
        num_supernodes=len(data),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return ends


def main() -> None:
    """Print the rows."""
    wanted = json.loads(sys.argv[1])
    logging.disable(logging.CRITICAL)
    here = os.path.dirname(os.path.abspath(__file__))
    os.environ["PYTHONPATH"] = here  # Flower's actors find this module, and keep in it what stays from round to round
    printed, sys.stdout = sys.stdout, sys.stderr  # Ray and Flower print as they please
    data, peer = Data(wanted["data"]), {"pfl": pfl, "flower": flower}[wanted["peer"]]
    for kind, cohort, rounds in wanted["points"]:
        ends = peer(wanted, data, kind, cohort, rounds)[FIRST - 1 :]
        spent = median(b - a for a, b in pairwise(ends))
        row = {"method": wanted["peer"], "model": kind, "population": len(data), "cohort": cohort, "seconds": spent}
        print(json.dumps(row), file=printed, flush=True)


if __name__ == "__main__":
    main()
