"""Presets: their figures against the proofs and against real ciphertexts, and the choice among them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from fedpriv.aggregation.homomorphic import envelope, presets
from fedpriv.aggregation.homomorphic.bfv import BFV
from fedpriv.aggregation.homomorphic.ckks import CKKS
from fedpriv.aggregation.homomorphic.fitting import Demand, code_for
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, KeyModel, SharedClientKey
from fedpriv.aggregation.homomorphic.lattice import LatticeAggregator
from fedpriv.aggregation.homomorphic.paillier import Paillier
from fedpriv.aggregation.homomorphic.presets import PRESETS, LatticePreset, PaillierPreset, choose
from fedpriv.aggregation.homomorphic.sizes import ciphertext_bytes
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.crypto.lattice import MAX_MODULUS_BITS, BFVParameters, CKKSParameters, SharedSecretKey
from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.network import Network, Wire
from fedpriv.threat import CLIENT, SERVER

VALUE = 2**15 - 1
MODELS: dict[str, KeyModel] = {
    "trusted-server": KeyAuthority(),
    "trusted-authority": KeyAuthority(additions="trusted-authority"),
    "shared-key": SharedClientKey(),
}
LATTICE = [preset for preset in PRESETS.values() if isinstance(preset, LatticePreset)]
named = pytest.mark.parametrize("preset", LATTICE, ids=lambda preset: preset.name)
every = pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)


def aggregator_of(preset: LatticePreset | PaillierPreset, keys: KeyModel) -> CKKS | BFV | Paillier:
    if isinstance(preset, PaillierPreset):
        return Paillier(keys=keys, key_bits=preset.key_bits)
    return CKKS(keys=keys, preset=preset.name) if preset.scheme == "CKKS" else BFV(keys=keys, preset=preset.name)


# --- security -----------------------------------------------------------------------------------------------------


def test_names_and_levels() -> None:
    assert {name: preset.security_bits for name, preset in PRESETS.items()} == {
        "ckks-lean": 128,
        "ckks-precise": 128,
        "bfv-exact": 128,
        "bfv-wide": 128,
        "paillier-2048": 112,
        "paillier-3072": 128,
    }


@named
def test_moduli_are_within_the_table_of_the_standard(preset: LatticePreset) -> None:
    assert MAX_MODULUS_BITS == {2048: 54, 4096: 109, 8192: 218, 16384: 438}
    assert sum(preset.parameters.moduli) <= MAX_MODULUS_BITS[preset.parameters.degree]


@pytest.mark.parametrize(("degree", "moduli"), [(2048, (55,)), (4096, (60, 50)), (1024, (27,)), (8192, (60, 60, 60))])
def test_insecure_parameters_of_a_users_own_are_refused(degree: int, moduli: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError):
        CKKS(preset=CKKSParameters(degree=degree, moduli=moduli))
    with pytest.raises(ConfigurationError):
        BFV(preset=BFVParameters(degree=degree, moduli=moduli, plain_bits=20))


def test_too_coarse_parameters_of_a_users_own_are_refused_in_the_plan() -> None:
    """The moduli of TenSEAL's tutorials: an error of 2e-2 where reals are meant, hopeless for integers."""
    plan = {"sum_bound": 10 * VALUE, "length": 1000, "cohort": 10}
    with pytest.raises(PlanError, match="error"):
        CKKS(preset=CKKSParameters(degree=2048, moduli=(30,))).domain(**plan)
    with pytest.raises(PlanError, match="half the plaintext modulus"):
        BFV(preset=BFVParameters(degree=2048, moduli=(40,), plain_bits=19)).domain(**plan)
    with pytest.raises(PlanError, match="noise"):
        BFV(preset=BFVParameters(degree=2048, moduli=(32,), plain_bits=20)).domain(**plan)


@every
def test_a_preset_of_another_scheme_is_refused_with_where_it_belongs(preset: LatticePreset | PaillierPreset) -> None:
    for scheme in (CKKS, BFV):
        if preset.scheme != scheme.scheme:
            with pytest.raises(ConfigurationError, match=rf"{scheme.scheme} is a name .* That one is ") as refused:
                scheme(preset=preset.name)
            assert preset.call in str(refused.value)
    made = eval(preset.call, {"CKKS": CKKS, "BFV": BFV, "Paillier": Paillier})
    assert made == aggregator_of(preset, KeyAuthority())


# --- capacity -----------------------------------------------------------------------------------------------------


def test_the_exact_preset_carries_16_bits_of_a_hundred_clients() -> None:
    exact = PRESETS["bfv-exact"]
    assert exact.value_bits(cohort=10) >= 19
    assert exact.value_bits(cohort=100) >= 16
    assert exact.largest_cohort(bits=16) >= 100


def test_the_lean_preset_carries_16_bits_of_ten_clients() -> None:
    assert PRESETS["ckks-lean"].value_bits(cohort=10) >= 16
    assert PRESETS["ckks-lean"].largest_cohort(bits=16) >= 10


def test_the_wide_presets_carry_wide_sums() -> None:
    wide = PRESETS["bfv-wide"]
    wide.check(Demand.of(sum_bound=2**29 - 1, length=10**7, cohort=1000, keys=KeyAuthority()))
    assert wide.value_bits(cohort=1000) >= 24
    assert PRESETS["ckks-precise"].value_bits(cohort=10) >= 32


@every
@pytest.mark.parametrize("keys", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("cohort", [1, 10, 100])
def test_capacities_are_what_a_plan_accepts(
    preset: LatticePreset | PaillierPreset, keys: KeyModel, cohort: int
) -> None:
    def accepted(bits: int, clients: int) -> bool:
        bound = clients * (2 ** (bits - 1) - 1)
        try:
            aggregator_of(preset, keys).domain(sum_bound=bound, length=10**6, cohort=clients)
        except PlanError:
            return False
        return True

    bits = preset.value_bits(cohort=cohort, keys=keys)
    assert accepted(bits, cohort)
    assert not accepted(bits + 1, cohort)
    clients = preset.largest_cohort(bits=8, keys=keys)
    assert accepted(8, clients)
    assert clients == presets.MAX_COHORT or not accepted(8, clients + 1)


def test_where_nothing_fits_capacity_is_zero() -> None:
    hopeless = LatticePreset(parameters=CKKSParameters(degree=2048, moduli=(20,)))
    assert hopeless.value_bits(cohort=10) == hopeless.largest_cohort(bits=16) == 0


# --- bytes --------------------------------------------------------------------------------------------------------

AIMS = {
    ("ckks-lean", "public"): 24.0,
    ("ckks-lean", "shared"): 12.1,
    ("ckks-precise", "public"): 24.0,
    ("ckks-precise", "shared"): 12.1,
    ("bfv-exact", "public"): 15.1,
    ("bfv-exact", "shared"): 7.6,
    ("bfv-wide", "public"): 15.1,
    ("bfv-wide", "shared"): 7.6,
}


@pytest.mark.parametrize(("name", "key"), AIMS)
def test_bytes_per_parameter_are_within_the_aims(name: str, key: str) -> None:
    """10 clients, 16-bit values."""
    assert PRESETS[name].largest_cohort(bits=16) >= 10
    keys = SharedClientKey() if key == "shared" else KeyAuthority()
    assert PRESETS[name].bytes_per_parameter(keys=keys) <= AIMS[name, key]


OTHERS = [
    CKKSParameters(degree=2048, moduli=(54,)),
    CKKSParameters(degree=8192, moduli=(50, 60)),
    CKKSParameters(degree=4096, moduli=(48, 60)),
    BFVParameters(degree=4096, moduli=(44, 60), plain_bits=25),
]


@pytest.mark.parametrize("parameters", [*(preset.parameters for preset in LATTICE), *OTHERS], ids=repr)
def test_bytes_of_ciphertexts_are_as_derived(parameters: CKKSParameters | BFVParameters) -> None:
    key = SharedSecretKey(code_for(parameters, Demand(length=1, largest=300, client=100, spread=300, cohort=3)))
    values = np.arange(parameters.slots) % 200 - 100
    for seeded, payload in ((True, key.encrypt(values)), (False, key.public.encrypt(values))):
        derived = ciphertext_bytes(parameters.degree, parameters.wire_bits, seeded=seeded)
        assert derived == pytest.approx(len(payload), rel=0.006)


@every
@pytest.mark.parametrize("keys", MODELS.values(), ids=MODELS)
def test_bytes_of_a_round_are_as_derived_and_as_estimated(
    preset: LatticePreset | PaillierPreset, keys: KeyModel
) -> None:
    """Whole ciphertexts and one with padding; envelopes come on top of the preset's figures."""
    cohort, short = 4, isinstance(preset, PaillierPreset)
    length = 130 if short else 2 * preset.parameters.slots + 1
    aggregator = aggregator_of(preset, keys)
    domain = aggregator.domain(sum_bound=cohort * VALUE, length=length, cohort=cohort)
    terms = Terms(length=length, input_bound=VALUE, cohort=cohort, domain=domain)
    wire, vector = Wire(Network()), np.full(length, VALUE)
    session = Session(round=0, attempt=0, participants=tuple(range(cohort)), context=b"")
    deployment = aggregator.deploy(terms)
    total = perform(deployment, session, wire, lambda here: [(p, vector) for p in here], keys.decryptor).total
    assert np.array_equal(total, cohort * vector)

    counted = {(row.stage, row.role): row for row in wire.costs}
    estimated = {(row.stage, row.role): row for row in aggregator.estimate(terms, cohort)}
    assert estimated.keys() == counted.keys()
    for at, row in estimated.items():
        assert (row.parties, row.messages) == (counted[at].parties, counted[at].messages)
        assert row.bytes_sent == pytest.approx(counted[at].bytes_sent, rel=0 if short else 0.01)
        assert row.bytes_received == pytest.approx(counted[at].bytes_received, rel=0 if short else 0.01)
        assert row.cpu_seconds > 0

    demand = Demand.of(sum_bound=cohort * VALUE, length=length, cohort=cohort, keys=keys)
    upload = counted["encrypt", CLIENT]
    ciphertexts = upload.bytes_sent - upload.messages * envelope.size(1, 0, signed=keys.signed)
    exactly = 0 if short else 0.01
    assert preset.upload_bytes(demand) == pytest.approx(ciphertexts / cohort, rel=exactly)
    if ("add", SERVER) in counted:
        handed = counted["add", SERVER]
        ciphertexts = handed.bytes_sent - handed.messages * envelope.size(cohort, 0)
        copies = cohort if keys.decryptor == CLIENT else 1
        assert preset.aggregate_bytes(demand) == pytest.approx(ciphertexts / copies, rel=exactly)


def test_estimates_do_not_depend_on_the_least_contributors() -> None:
    """The probe has three clients, whatever a plan's minimum is."""
    for keys in (KeyAuthority(min_contributors=50), SharedClientKey(min_contributors=50, tell_server=True)):
        aggregator = BFV(keys=keys)
        domain = aggregator.domain(sum_bound=50, length=10, cohort=50)
        rows = aggregator.estimate(Terms(length=10, input_bound=1, cohort=50, domain=domain), 50)
        assert rows[0].messages == 50


# --- the choice -----------------------------------------------------------------------------------------------------


def test_the_smallest_upload_wins() -> None:
    for keys in MODELS.values():
        for length in (10, 3000, 5000, 10**6):
            plan = {"length": length, "sum_bound": 10 * VALUE, "cohort": 10}
            demand = Demand.of(keys=keys, **plan)
            best = choose(keys=keys, **plan)
            sizes = [preset.upload_bytes(demand) for preset in LATTICE]
            assert best.upload_bytes(demand) == min(sizes)
    assert choose(length=10, sum_bound=1000, cohort=5).name == "bfv-exact", "the small ring"


def test_bits_cohort_and_noise_room_matter() -> None:
    assert choose(length=10**6, sum_bound=2**21, cohort=10, schemes=["BFV"]).name == "bfv-exact"
    assert choose(length=10**6, sum_bound=2**22, cohort=10, schemes=["BFV"]).name == "bfv-wide"
    assert choose(length=10**6, sum_bound=2**21, cohort=200, schemes=["BFV"]).name == "bfv-wide"
    assert choose(length=10**6, sum_bound=2**37, cohort=10, schemes=["BFV", "Paillier"]).name == "paillier-3072"


def test_paillier_is_chosen_only_where_it_is_named() -> None:
    plan = {"length": 10**4, "sum_bound": 10 * VALUE, "cohort": 10}
    assert choose(**plan).scheme != "Paillier"
    assert choose(**plan, schemes=["CKKS", "BFV", "Paillier"]).name == "paillier-3072"
    assert choose(length=1, sum_bound=10, cohort=10, schemes=["Paillier"], security_bits=112).name == "paillier-2048"


def test_a_refusal_says_of_each_why_not() -> None:
    with pytest.raises(PlanError) as refusal:
        choose(length=10, sum_bound=2**45, cohort=10)
    for preset in LATTICE:
        assert f"{preset.name}: " in str(refusal.value)
    with pytest.raises(PlanError, match="scheme"):
        choose(length=10, sum_bound=1, cohort=10, schemes=[])
    with pytest.raises(PlanError, match="below 2"):
        choose(length=10, sum_bound=2**63, cohort=10, schemes=["Paillier"])


def test_the_table_has_every_preset_and_no_pandas() -> None:
    rows = presets.table()
    assert [row["preset"] for row in rows] == list(PRESETS)
    for row in rows:
        preset = PRESETS[str(row["preset"])]
        assert row["security_bits"] == preset.security_bits
        assert row["value_bits_10"] == preset.value_bits(cohort=10)
        assert row["largest_cohort_16"] == preset.largest_cohort(bits=16)
        assert row["bytes_shared"] <= row["bytes_public"] <= 1.001 * row["bytes_aggregate"]
    own = LatticePreset(name="mine", parameters=OTHERS[0])
    assert [row["preset"] for row in presets.table([own])] == ["mine"]


def test_descriptions_are_plain_data() -> None:
    for aggregator in (CKKS(preset="ckks-lean"), BFV(keys=SharedClientKey()), BFV(preset=OTHERS[3])):
        assert isinstance(aggregator, LatticeAggregator)
        assert pickle.loads(pickle.dumps(aggregator)) == aggregator
        assert hash(aggregator) == hash(pickle.loads(pickle.dumps(aggregator)))
