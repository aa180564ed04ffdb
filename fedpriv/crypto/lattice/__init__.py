"""Lattice-based encryption through SEAL: vectors of integers, exact sums, CKKS and BFV one way."""

from fedpriv.crypto.lattice.bfv import BFVCode
from fedpriv.crypto.lattice.ckks import CKKSCode
from fedpriv.crypto.lattice.keys import Adder, Ciphertext, Code, PublicKey, SecretKey, SharedSecretKey
from fedpriv.crypto.lattice.parameters import (
    MAX_MODULUS_BITS,
    SECURITY_BITS,
    BFVParameters,
    CKKSParameters,
    Encryption,
    Parameters,
)

__all__ = [
    "MAX_MODULUS_BITS",
    "SECURITY_BITS",
    "Adder",
    "BFVCode",
    "BFVParameters",
    "CKKSCode",
    "CKKSParameters",
    "Ciphertext",
    "Code",
    "Encryption",
    "Parameters",
    "PublicKey",
    "SecretKey",
    "SharedSecretKey",
]
