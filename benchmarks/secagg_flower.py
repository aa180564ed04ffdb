"""Flower's SecAgg+ on the complete graph, by its own functions; run in the peers' environment (``make peers``).

One JSON line for each measurement of ``secagg_flower.py '{"points": [[n, d], …], "dropouts": [0.0, …], "whole": n}'``.
A client's stages are Flower's ``_share_keys`` and ``_collect_masked_vectors``, on messages of n − 1 others. The
server's ``unmask_stage`` runs as it is up to ``whole`` clients; above that its time is composed: each of its functions
is timed with the arguments it would have, and counted as often as it would be called. Seconds are processor time.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
import logging
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow, WorkflowState
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)
from flwr.supercore.task_identity import TaskIdentity

CLIPPING, TARGET, MODULUS, WEIGHT = 8.0, 2**22, 2**32, 1000.0
"""The defaults of SecAggPlusWorkflow."""

mod = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")  # the package has a function of this name


def seconds(action: Callable[[], object], repeats: int = 3) -> float:
    """The least processor time of a call."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        action()
        best = min(best, time.process_time() - started)
    return best


def peak(action: Callable[[], object]) -> int:
    """Bytes that a call holds at most, beyond those before it."""
    tracemalloc.start()
    action()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def threshold(n: int) -> int:
    """Two thirds, as in Flower's examples."""
    return round(n * 2 / 3)


def set_up(nid: int, n: int) -> tuple[Any, list[bytes]]:
    """A client after the first stage, and its public keys."""
    state = mod.SecAggPlusState()
    state.nid = nid
    answer = mod._setup(
        state,
        {
            Key.SAMPLE_NUMBER: n,
            Key.SHARE_NUMBER: n,
            Key.THRESHOLD: threshold(n),
            Key.CLIPPING_RANGE: CLIPPING,
            Key.TARGET_RANGE: TARGET,
            Key.MOD_RANGE: MODULUS,
            Key.MAX_WEIGHT: WEIGHT,
        },
    )
    return state, [answer[Key.PUBLIC_KEY_1], answer[Key.PUBLIC_KEY_2]]


class OneClient:
    """Client 1 of n, real up to and with its shares; the shares it receives are random bytes of their length."""

    def __init__(self, n: int) -> None:
        self.state, own = set_up(1, n)
        others = [generate_key_pairs() for _ in range(2, n + 1)]
        keys = {"1": own} | {
            str(nid): [self.state.pk1, public_key_to_bytes(pair[1])] for nid, pair in enumerate(others, 2)
        }
        for nid in range(2, n + 1):  # every mask key its own: Flower refuses equal ones
            keys[str(nid)][0] = public_key_to_bytes(generate_key_pairs()[1])
        started = time.process_time()
        answer = mod._share_keys(self.state, keys)
        self.share_seconds = time.process_time() - started
        self.ciphertexts: list[bytes] = answer[Key.CIPHERTEXT_LIST]
        seed_share, key_share = len(self.state.rd_seed_share_dict[1]), len(self.state.sk1_share_dict[1])
        self.seed_share = seed_share
        self.routed = {
            Key.SOURCE_LIST: list(range(2, n + 1)),
            Key.CIPHERTEXT_LIST: [
                encrypt(
                    self.state.ss2_dict[nid],
                    share_keys_plaintext_concat(nid, 1, os.urandom(seed_share), os.urandom(key_share)),
                )
                for nid in range(2, n + 1)
            ],
        }
        self.n = n
        self.key_bytes = sum(map(len, own))

    def row(self, d: int) -> dict[str, object]:
        """Its upload of d coordinates."""
        vector = ndarrays_to_parameters([np.random.default_rng(0).uniform(-1, 1, d).astype(np.float32)])
        state = self.state

        def upload() -> dict[str, Any]:
            return dict(mod._collect_masked_vectors(state, self.routed, int(WEIGHT), vector))

        masked = sum(map(len, upload()[Key.MASKED_PARAMETERS]))
        shares = sum(map(len, self.ciphertexts))
        return {
            "role": "client",
            "clients": self.n,
            "coordinates": d,
            "dropout": 0.0,
            "cpu_seconds": seconds(upload),
            "setup_seconds": self.share_seconds,
            "sent_bytes": self.key_bytes + shares + masked + self.n * self.seed_share,
            "peak_bytes": peak(upload),
            "how": "measured",
        }


class Combining:
    """Seconds of one reconstruction, of a seed and of a key, from the number of shares the server would have."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, bool], float] = {}

    def __call__(self, n: int, shares: int, *, key: bool) -> float:
        if (n, shares, key) not in self._known:
            secret = private_key_to_bytes(generate_key_pairs()[0]) if key else os.urandom(32)
            chosen = create_shares(secret, threshold(n), n)[:shares]
            self._known[n, shares, key] = seconds(lambda: combine_shares(chosen), 1 if n > 50 else 3)
        return self._known[n, shares, key]


def composed(n: int, d: int, lost: int, combining: Combining) -> float:
    """Adding the vectors up and the stage ``unmask``, from their functions."""
    alive = n - lost
    shape = [(1,), (d,)]
    vector = pseudo_rand_gen(os.urandom(32), MODULUS, shape)
    other = [mod.ndarray_to_bytes(array) for array in vector]
    add = seconds(lambda: parameters_addition(vector, [bytes_to_ndarray(part) for part in other]))
    remove = seconds(
        lambda: parameters_subtraction(vector, pseudo_rand_gen(b"8" * 44, MODULUS, shape)), 9 if d < 10**6 else 5
    )
    secret, public = private_key_to_bytes(generate_key_pairs()[0]), public_key_to_bytes(generate_key_pairs()[1])
    agree = seconds(lambda: generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(public)), 20)
    total = (alive - 1) * add + alive * (combining(n, alive, key=False) + remove)
    if lost:
        total += lost * (combining(n, alive, key=True) + (n - 1) * (agree + remove))
    return total


def whole(n: int, d: int, lost: int) -> float:
    """A whole round, of which the adding up and ``SecAggPlusWorkflow.unmask_stage`` are timed; the sum is checked."""
    clients, publics = {}, {}
    for nid in range(1, n + 1):
        clients[nid], publics[nid] = set_up(nid, n)
    inbox: dict[int, tuple[list[int], list[bytes]]] = {nid: ([], []) for nid in clients}
    for nid, state in clients.items():
        answer = mod._share_keys(state, {str(other): list(keys) for other, keys in publics.items()})
        for to, ciphertext in zip(answer[Key.DESTINATION_LIST], answer[Key.CIPHERTEXT_LIST], strict=True):
            inbox[to][0].append(nid)
            inbox[to][1].append(ciphertext)
    active = set(range(1, n + 1 - lost))
    rng = np.random.default_rng(0)
    uploads, inputs = [], []
    for nid in sorted(active):
        vector = rng.uniform(-1, 1, d).astype(np.float32)
        configs = {Key.SOURCE_LIST: inbox[nid][0], Key.CIPHERTEXT_LIST: inbox[nid][1]}
        answer = mod._collect_masked_vectors(clients[nid], configs, int(WEIGHT), ndarrays_to_parameters([vector]))
        uploads.append(answer[Key.MASKED_PARAMETERS])
        inputs.append(vector)

    def answer_of(nid: int, message: Any) -> Any:
        configs = mod._unmask(clients[nid], message.content.config_records[RECORD_KEY_CONFIGS])
        return SimpleNamespace(
            has_error=lambda: False,
            metadata=SimpleNamespace(src_node_id=nid),
            content=SimpleNamespace(config_records={RECORD_KEY_CONFIGS: configs}),
        )

    grid = SimpleNamespace(
        send_and_receive=lambda messages, timeout: [answer_of(m.metadata.dst_node_id, m) for m in messages]
    )
    result = SimpleNamespace(parameters=None)
    context = SimpleNamespace(
        state=SimpleNamespace(config_records={MAIN_CONFIGS_RECORD: {WorkflowKey.CURRENT_ROUND: 1}}),
        strategy=SimpleNamespace(aggregate_fit=lambda *_: (None, {})),
    )
    state = WorkflowState(
        sampled_node_ids=set(clients),
        active_node_ids=set(active),
        num_shares=n,
        threshold=threshold(n),
        clipping_range=CLIPPING,
        quantization_range=TARGET,
        mod_range=MODULUS,
        max_weight=WEIGHT,
        nid_to_neighbours={nid: set(clients) for nid in clients},
        nid_to_publickeys=publics,
        legacy_results=[(None, result)],
    )
    workflow = SecAggPlusWorkflow(n, threshold(n), max_weight=WEIGHT)
    started = time.process_time()
    total: Any = None
    for upload in uploads:
        masked = [bytes_to_ndarray(part) for part in upload]
        total = masked if total is None else parameters_addition(total, masked)
    state.aggregate_ndarrays = parameters_mod(total, MODULUS)
    if not workflow.unmask_stage(grid, context, state):
        raise RuntimeError("Flower halted the round.")
    spent = time.process_time() - started
    mean = parameters_to_ndarrays(result.parameters)[0]
    if not np.allclose(mean, np.mean(inputs, axis=0), atol=1e-4):
        raise AssertionError("Flower's mean is not that of the inputs.")
    return spent


def main() -> None:
    """Print the rows."""
    wanted = json.loads(sys.argv[1])
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 0
    logging.disable(logging.CRITICAL)
    combining = Combining()
    clients: dict[int, OneClient] = {}
    for n, d in wanted["points"]:
        if n not in clients:
            clients[n] = OneClient(n)
        print(json.dumps(clients[n].row(d)), flush=True)
        for dropout in wanted["dropouts"]:
            lost = round(dropout * n)
            complete = n <= wanted["whole"]
            spent = min(whole(n, d, lost) for _ in range(3)) if complete else composed(n, d, lost, combining)
            row = {
                "role": "server",
                "clients": n,
                "coordinates": d,
                "dropout": dropout,
                "cpu_seconds": spent,
                "setup_seconds": None,
                "sent_bytes": None,
                "peak_bytes": (n - lost) * 8 * d,  # it holds all answers before it adds them up
                "how": "measured" if complete else "composed",
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
