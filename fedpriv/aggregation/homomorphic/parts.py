"""What a scheme brings, in three parts with no more than a party may hold each, and the terms that its sums must meet.

An :class:`Encryptor` is the clients' key, an :class:`Adder` holds no secret, a :class:`Decryptor` is the secret key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from fedpriv.aggregation.protocol import Terms
from fedpriv.encoding import Bounded, Integers, check_sum_bound
from fedpriv.errors import EncodingOverflow, PlanError


class Encryptor(Protocol):
    """What a client encrypts with; can be pickled where clients are hosted in other processes."""

    def encrypt(self, vector: Integers) -> Iterable[bytes]:
        """``[length] int64`` → one payload for each chunk, under fresh randomness."""
        ...


class Adder(Protocol):
    """What adds ciphertexts. Holds no secret."""

    def load(self, payload: bytes) -> Any:
        """A chunk's ciphertext. Raises MalformedMessage."""
        ...

    def add(self, total: Any, other: Any) -> Any:
        """``total + other``; ``total`` may be changed."""
        ...

    def dump(self, total: Any) -> bytes: ...

    def seed_of(self, payload: bytes) -> bytes | None:
        """The seed that a seeded ciphertext was expanded from, which no other may have; None where there is none."""
        ...


class Decryptor(Protocol):
    """What holds the secret key."""

    def decrypt(self, payloads: Sequence[bytes], contributors: int) -> Integers:
        """The sum over this many vectors, ``[length] int64``.

        Raises:
            DecryptionFailed: the plaintext is not the sum of so many encodings.
        """
        ...


def bounded(sum_bound: int) -> Bounded:
    """Integers within ±sum_bound. Raises PlanError where they do not fit into 62 bits."""
    try:
        check_sum_bound(sum_bound)
    except EncodingOverflow as error:
        raise PlanError(error.rule, value=error.value, remedy=error.remedy) from error
    return Bounded(sum_bound)


def check_terms(terms: Terms) -> None:
    """Raises PlanError unless every sum of a full cohort's clipped vectors lies in the terms' domain."""
    bounded(terms.cohort * terms.input_bound)
    if terms.cohort * terms.input_bound > terms.domain.largest:
        raise PlanError(
            f"Every sum of a cohort fits into {terms.domain.name}.",
            value=f"{terms.cohort} vectors within ±{terms.input_bound}",
            remedy="Ask domain() for this cohort and bound; use fewer bits or a smaller cohort.",
        )
