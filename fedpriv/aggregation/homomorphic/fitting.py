"""Which lattice parameters carry a plan's sums: the proofs that no sum wraps and that every one comes back exact."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedpriv.aggregation.homomorphic.keys import KeyModel
from fedpriv.aggregation.homomorphic.parts import check_terms
from fedpriv.aggregation.protocol import Terms
from fedpriv.crypto import lattice
from fedpriv.crypto.lattice import bfv_noise, ckks_noise
from fedpriv.crypto.lattice.ckks import TOLERANCE
from fedpriv.errors import PlanError


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a plan asks of every sum, the counting slots included."""

    length: int
    """Coordinates of a vector."""
    largest: int
    """Bounds |sum| in every coordinate."""
    client: int
    """Bounds |value| in every coordinate of one client's vector, noise included."""
    spread: int
    """Bounds |sum|, and the sum of the clients' largest |values|."""
    cohort: int
    """The most ciphertexts in a sum."""
    encryption: lattice.Encryption = "public"

    @classmethod
    def of(cls, *, sum_bound: int, length: int, cohort: int, keys: KeyModel) -> Demand:
        """Of sums within ±sum_bound under a key model; no client's value is more than half of that, unless alone."""
        encryption: lattice.Encryption = "secret" if keys.clients_hold_secret else "public"
        counted = max(sum_bound, cohort)  # the counting slot reaches the cohort
        client = counted if cohort == 1 else -(-counted // 2)
        return cls(length=length, largest=counted, client=client, spread=counted, cohort=cohort, encryption=encryption)

    @classmethod
    def of_terms(cls, terms: Terms, keys: KeyModel) -> Demand:
        """Of a plan's terms under a key model."""
        check_terms(terms)
        plain = cls.of(sum_bound=terms.domain.largest, length=terms.length, cohort=terms.cohort, keys=keys)
        client = max(terms.input_bound, 1)
        return replace(plain, client=client, spread=max(plain.spread, terms.cohort * client))


def data_slots(parameters: lattice.Parameters) -> int:
    """Coordinates in one ciphertext; the last slot counts contributors."""
    return parameters.slots - 1


def chunks(parameters: lattice.Parameters, length: int) -> int:
    """Ciphertexts that carry one vector."""
    return -(-length // data_slots(parameters))


def code_for(parameters: lattice.Parameters, demand: Demand) -> lattice.Code:
    """The code under which every sum of a demand is exact.

    Raises:
        PlanError: there is none; names what would fit.
    """
    if isinstance(parameters, lattice.CKKSParameters):
        return _ckks_code(parameters, demand)
    return _bfv_code(parameters, demand)


def _ckks_code(parameters: lattice.CKKSParameters, demand: Demand) -> lattice.CKKSCode:
    """The largest scale at which sums fit into the modulus, with the proof that they are exact."""
    error = _ckks_error(parameters, demand)
    if error >= TOLERANCE:
        fits = [bits for bits in range(1, 62) if _ckks_error(parameters, _resized(demand, 2**bits - 1)) < TOLERANCE]
        raise PlanError(
            f"CKKS sums are exact only where their error is proved to stay below {TOLERANCE} of a unit.",
            value=f"sums of {demand.cohort} vectors within ±{demand.largest} allow an error of {error:.3g}",
            remedy=f"Sums of so many vectors may have {max(fits)} bits and a sign; use fewer bits, smaller weights "
            "or a larger preset."
            if fits and 2 ** max(fits) > demand.cohort
            else "Use a smaller cohort or a larger preset.",
        )
    return lattice.CKKSCode(parameters=parameters, scale=_scale(parameters, demand))


def _scale(parameters: lattice.CKKSParameters, demand: Demand) -> float:
    """SEAL encodes up to half of what a sum may reach.

    And nothing that wraps comes back as a sum within ±largest: a coefficient that passes q/2 has at most √2·spread·Δ,
    and lies, less q, beyond √2·largest·Δ on the other side, because √2·(largest + spread)·Δ + 2Δ ≤ q.
    """
    return parameters.scale_for(max(-(-(demand.largest + demand.spread) // 2), 2 * demand.client))


def _ckks_error(parameters: lattice.CKKSParameters, demand: Demand) -> float:
    """The bound on every slot's error."""
    return ckks_noise.slot_error(
        parameters,
        additions=demand.cohort,
        slots=chunks(parameters, demand.length) * parameters.slots,
        largest=demand.spread,
        scale=_scale(parameters, demand),
        encryption=demand.encryption,
    ).total


def _resized(demand: Demand, largest: int) -> Demand:
    """The same plan with other sums."""
    client = largest if demand.cohort == 1 else -(-largest // 2)
    return replace(demand, largest=largest, client=client, spread=largest)


def _bfv_code(parameters: lattice.BFVParameters, demand: Demand) -> lattice.BFVCode:
    """Sums fit below half the plaintext modulus, one that wraps shows, and noise is proved to leave them whole."""
    if max(demand.largest, demand.client) > parameters.largest:
        raise PlanError(
            f"BFV sums lie within half the plaintext modulus: ±{parameters.largest}.",
            value=f"sums of {demand.cohort} vectors within ±{demand.largest}",
            remedy=f"Sums may have {(parameters.largest + 1).bit_length() - 1} bits and a sign; use fewer bits, "
            "smaller weights, a smaller cohort or a larger preset.",
        )
    if demand.spread + demand.largest >= parameters.plain_modulus:
        raise PlanError(
            "A BFV sum that wraps lies outside of what sums may reach, so that it shows.",
            value=f"vectors that add up to ±{demand.spread}, sums within ±{demand.largest}, a plaintext modulus of "
            f"{parameters.plain_modulus}",
            remedy="Use fewer bits, a smaller cohort or a larger preset.",
        )
    ciphertexts = chunks(parameters, demand.length)
    most = bfv_noise.most_additions(parameters, ciphertexts=ciphertexts, encryption=demand.encryption)
    if demand.cohort > most:
        raise PlanError(
            f"BFV sums are exact only where their noise is proved to: up to {most} additions of {ciphertexts} "
            "ciphertexts.",
            value=f"a cohort of {demand.cohort}",
            remedy="Use a smaller cohort or a larger preset.",
        )
    return lattice.BFVCode(parameters=parameters)
