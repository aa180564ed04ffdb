"""Key recovery: it must work on raw decryptions, or its failure on released integers would say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from fedpriv import attacks
from fedpriv.aggregation.homomorphic.ckks import CKKS
from fedpriv.aggregation.homomorphic.fitting import data_slots
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, KeyModel, SharedClientKey
from fedpriv.aggregation.homomorphic.lattice import LatticeDecryptor
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.crypto.lattice import raw
from fedpriv.crypto.lattice.ckks import CKKSCode
from fedpriv.crypto.lattice.keys import Adder, SecretKey
from fedpriv.crypto.lattice.parameters import CKKSParameters
from fedpriv.errors import ConfigurationError, MalformedMessage, NonFiniteInput
from fedpriv.network import Network, Wire
from fedpriv.threat import SERVER, View, client

CLIENTS = 3
RINGS = [CKKSParameters(degree=4096, moduli=(40, 60)), CKKSParameters(degree=2048, moduli=(54,))]


class Round(NamedTuple):
    """What a server that adds ciphertexts sees, and what it should not learn."""

    code: CKKSCode
    key: SecretKey
    vectors: npt.NDArray[np.int64]
    uploads: list[bytes]
    aggregate: bytes

    @property
    def seen(self) -> attacks.RawCiphertext:
        return attacks.read_ckks(self.code, self.aggregate)


@cache
def rounds(parameters: CKKSParameters, seeded: bool) -> tuple[Round, Round]:
    """Two rounds under one key."""
    bound = 2**5
    code = CKKSCode(parameters, parameters.scale_for(2 * CLIENTS * bound))
    key = SecretKey(code)
    return tuple(one_round(code, key, seed, bound, seeded) for seed in (0, 1))  # type: ignore[return-value]


def one_round(code: CKKSCode, key: SecretKey, seed: int, bound: int, seeded: bool) -> Round:
    vectors = np.random.default_rng(seed).integers(-bound, bound + 1, (CLIENTS, code.slots), dtype=np.int64)
    uploads = [(key if seeded else key.public).encrypt(vector) for vector in vectors]
    adder = Adder(code)
    total = adder.load(uploads[0])
    for upload in uploads[1:]:
        adder.add(total, adder.load(upload))
    return Round(code, key, vectors, uploads, total.to_bytes())


def is_the_key(found: attacks.KeyRecovery, key: SecretKey) -> bool:
    return found.key is not None and np.array_equal(found.key, raw.secret_coefficients(key))


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("parameters", RINGS, ids=str)
class TestFedprivsLattice:
    """Its own ciphertexts, released as nobody should and as it does."""

    def test_one_raw_decryption_gives_the_key_and_with_it_every_upload(
        self, parameters: CKKSParameters, seeded: bool
    ) -> None:
        first, second = rounds(parameters, seeded)
        found = attacks.ckks_key_recovery([first.seen], [raw.floats(first.key, first.aggregate)])
        assert found.succeeded
        assert is_the_key(found, first.key)
        assert max(found.residual) <= 0.5
        for upload, vector in zip(second.uploads, second.vectors, strict=True):  # of another round as well
            slots = found.decrypt(attacks.read_ckks(first.code, upload))
            assert np.array_equal(np.rint(np.concatenate([slots.real, slots.imag])), vector)

    def test_the_released_integers_of_the_same_ciphertexts_do_not(
        self, parameters: CKKSParameters, seeded: bool
    ) -> None:
        both = rounds(parameters, seeded)
        released = [attacks.slots_of(one.key.decrypt(one.aggregate, additions=CLIENTS)) for one in both]
        for one, slots in zip(both, released, strict=True):
            assert np.array_equal(np.concatenate([slots.real, slots.imag]), one.vectors.sum(axis=0))
        seen = [one.seen for one in both]
        complex_parts = attacks.ckks_key_recovery(seen, released)
        real_parts = attacks.ckks_key_recovery(seen, [slots.real for slots in released])
        for found, systems in ((complex_parts, 2), (real_parts, 1)):
            assert not found.succeeded
            assert found.solved == systems  # it was tried: the systems had solutions, but no key among them
            assert found.ternary < 0.01
            assert found.residual == ()

    def test_real_parts_take_two_releases(self, parameters: CKKSParameters, seeded: bool) -> None:
        first, second = rounds(parameters, seeded)
        real = [raw.floats(one.key, one.aggregate).real for one in (first, second)]
        alone = attacks.ckks_key_recovery([first.seen], real[:1])
        assert (alone.succeeded, alone.solved) == (False, 0)
        found = attacks.ckks_key_recovery([first.seen, second.seen], real)
        assert is_the_key(found, first.key)
        assert max(found.residual) <= 0.5


def test_a_server_that_sees_the_models_has_what_the_attack_starts_from() -> None:
    model = KeyAuthority().threat_model(assumptions=(), reference="")
    shown = model.with_views({SERVER: frozenset({View.ROUND_MODELS})})  # what a resolved plan adds
    assert attacks.can_try(shown.sees("server"))  # so that "it fails on integers" is about this very observer
    assert not attacks.can_try(model.sees("server"))
    assert not attacks.can_try(shown.sees("public"))


@pytest.mark.parametrize("keys", [KeyAuthority(), SharedClientKey()], ids=lambda keys: type(keys).__name__)
def test_a_whole_round_gives_no_key_though_its_raw_decryptions_would(
    keys: KeyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's view: the aggregate that it sends off, and the sum that it is shown."""
    opened: list[tuple[SecretKey, list[bytes]]] = []

    def record(decryptor: LatticeDecryptor, payloads: Sequence[bytes], contributors: int) -> npt.NDArray[np.int64]:
        opened.append((decryptor._key, list(payloads)))
        return decrypt(decryptor, payloads, contributors)

    decrypt = LatticeDecryptor.decrypt
    monkeypatch.setattr(LatticeDecryptor, "decrypt", record)
    aggregator, bound = CKKS(preset="ckks-lean", keys=keys), 100
    length = 2 * data_slots(RINGS[0]) - 5
    domain = aggregator.domain(sum_bound=CLIENTS * bound, length=length, cohort=CLIENTS)
    deployment = aggregator.deploy(Terms(length=length, input_bound=bound, cohort=CLIENTS, domain=domain))
    session = Session(round=0, attempt=0, participants=tuple(range(CLIENTS)), context=b"")
    drawn = np.random.default_rng(0).integers(-bound, bound + 1, (CLIENTS, length), dtype=np.int64)
    inputs = {client(index): vector for index, vector in enumerate(drawn)}
    total = perform(
        deployment, session, Wire(Network()), lambda here: [(p, inputs[p]) for p in here], keys.decryptor
    ).total

    key, payloads = opened[0]
    padded = np.concatenate([total, np.zeros(5, dtype=np.int64)]).reshape(2, -1)
    slots = np.column_stack([padded, np.full(2, CLIENTS)])  # the attacker knows the layout: padding, then the counter
    for data, integers in zip(payloads, slots, strict=True):
        assert np.array_equal(key.decrypt(data), integers)
    assert isinstance(key.code, CKKSCode)
    seen = [attacks.read_ckks(key.code, data) for data in payloads]
    tried = attacks.ckks_key_recovery(seen, [attacks.slots_of(integers) for integers in slots])
    assert (tried.succeeded, tried.solved) == (False, 2)
    raw_release = attacks.ckks_key_recovery(seen, [raw.floats(key, data) for data in payloads])
    assert is_the_key(raw_release, key)


def test_one_good_release_among_bad_ones_is_enough() -> None:
    first, second = rounds(RINGS[1], False)
    bad = raw.floats(first.key, first.aggregate) + 1e-3
    good = raw.floats(second.key, second.aggregate)
    found = attacks.ckks_key_recovery([first.seen, second.seen], [bad, good])
    assert is_the_key(found, first.key)
    assert found.solved == 2
    assert found.residual[0] > 0.5 >= found.residual[1]


def test_the_release_of_another_ciphertext_gives_no_key() -> None:
    first, second = rounds(RINGS[1], False)
    found = attacks.ckks_key_recovery([first.seen], [raw.floats(second.key, second.aggregate)])
    assert not found.succeeded
    assert found.ternary < 0.01
    with pytest.raises(ConfigurationError, match="recovered key"):
        found.decrypt(first.seen)


def test_a_system_without_a_unique_solution_is_counted_and_left() -> None:
    first, _ = rounds(RINGS[1], False)
    parts = first.seen.parts.copy()
    parts[1] = 0
    empty = attacks.RawCiphertext(parts=parts, modulus=first.seen.modulus, scale=first.seen.scale)
    slots = raw.floats(first.key, first.aggregate)
    assert attacks.ckks_key_recovery([empty], [slots]).singular == 1
    twice = attacks.ckks_key_recovery([first.seen, first.seen], [slots.real, slots.real])  # one equation, not two
    assert (twice.succeeded, twice.solved, twice.singular) == (False, 0, 1)


def test_a_recovered_key_is_not_printed() -> None:
    first, _ = rounds(RINGS[1], False)
    found = attacks.ckks_key_recovery([first.seen], [raw.floats(first.key, first.aggregate)])
    assert "key" not in repr(found).replace("KeyRecovery", "")


class TestTenSEAL:
    """TenSEAL as its users have it: real parts, a shared key, parameters of tutorials and of NVFlare."""

    NVFLARE = (8192, (60, 40, 40), 2.0**40)

    @staticmethod
    def context(degree: int, moduli: tuple[int, ...], scale: float) -> Any:
        import tenseal

        made = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            degree,
            coeff_mod_bit_sizes=list(moduli),
            encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
            n_threads=1,
        )
        made.global_scale = scale
        return made

    @staticmethod
    def upload(context: Any, length: int, seed: int) -> tuple[Any, npt.NDArray[np.float64]]:
        import tenseal

        vector = np.random.default_rng(seed).normal(0, 0.05, length)
        return tenseal.ckks_vector(context, vector.tolist()), vector

    @staticmethod
    def parameters_of(context: Any) -> bytes:
        """What a server has: no key at all."""
        return bytes(context.serialize(save_public_key=False, save_secret_key=False, save_relin_keys=False))

    @pytest.mark.parametrize("averaged_by_the_server", [False, True])
    def test_two_aggregates_of_nvflares_setting_give_the_key(self, averaged_by_the_server: bool) -> None:
        context = self.context(*self.NVFLARE)
        aggregates = []
        for number in range(2):
            total, _ = self.upload(context, 4096, 10 * number)
            for seed in range(1, CLIENTS):
                total += self.upload(context, 4096, 10 * number + seed)[0]
            aggregates.append(total * (1 / CLIENTS) if averaged_by_the_server else total)
        seen = [attacks.read_tenseal(self.parameters_of(context), one.serialize())[0] for one in aggregates]
        released = [np.array(one.decrypt()) for one in aggregates]
        found = attacks.ckks_key_recovery(seen, released)
        assert found.succeeded
        victim, vector = self.upload(context, 4096, 99)
        read = found.decrypt(attacks.read_tenseal(self.parameters_of(context), victim.serialize())[0])
        assert np.abs(read.real - vector).max() < 1e-6

    def test_one_round_is_enough_where_a_model_takes_two_ciphertexts(self, capfd: pytest.CaptureFixture[str]) -> None:
        context = self.context(4096, (40, 60), 2.0**36)
        total, _ = self.upload(context, 4096, 0)
        total += self.upload(context, 4096, 1)[0]
        capfd.readouterr()  # TenSEAL's warning that it takes more than one ciphertext
        seen = attacks.read_tenseal(self.parameters_of(context), total.serialize())
        released = np.array(total.decrypt()).reshape(2, -1)
        assert attacks.ckks_key_recovery(seen, list(released)).succeeded

    @pytest.mark.parametrize(("decimals", "falls"), [(6, True), (5, True), (3, False)])
    def test_rounding_to_decimals_helps_only_where_it_is_coarse(self, decimals: int, falls: bool) -> None:
        context = self.context(4096, (40, 20, 40), 2.0**20)
        vectors = [self.upload(context, 2048, seed)[0] for seed in (0, 1)]
        seen = [attacks.read_tenseal(self.parameters_of(context), one.serialize())[0] for one in vectors]
        released = [np.round(one.decrypt(), decimals) for one in vectors]
        assert attacks.ckks_key_recovery(seen, released).succeeded == falls

    def test_other_bytes_are_refused(self) -> None:
        context = self.context(4096, (40, 60), 2.0**36)
        good, parameters = self.upload(context, 8, 0)[0].serialize(), self.parameters_of(context)
        for first, second in ((b"no", good), (parameters, b""), (parameters, good[:-40])):
            with pytest.raises(MalformedMessage, match="TenSEAL"):
                attacks.read_tenseal(first, second)


class TestRefusals:
    """What the attack cannot be tried on."""

    def test_a_release_for_each_ciphertext(self) -> None:
        first, _ = rounds(RINGS[1], False)
        for ciphertexts in ([], [first.seen]):
            with pytest.raises(ConfigurationError, match="a release of each"):
                attacks.ckks_key_recovery(ciphertexts, [])

    def test_all_slots(self) -> None:
        first, _ = rounds(RINGS[1], False)
        with pytest.raises(ConfigurationError, match="1024 slots"):
            attacks.ckks_key_recovery([first.seen], [np.zeros(1000)])

    def test_one_ring(self) -> None:
        seen = [rounds(parameters, False)[0].seen for parameters in RINGS]
        with pytest.raises(ConfigurationError, match="one ring"):
            attacks.ckks_key_recovery(seen, [np.zeros(2048), np.zeros(1024)])

    def test_finite_values(self) -> None:
        first, _ = rounds(RINGS[1], False)
        with pytest.raises(NonFiniteInput):
            attacks.ckks_key_recovery([first.seen], [np.full(1024, np.nan)])
