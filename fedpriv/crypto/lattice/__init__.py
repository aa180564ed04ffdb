"""Lattice-based encryption through TenSEAL's SEAL: vectors of integers, exact sums."""

from fedpriv.crypto.lattice.ckks import MAX_MODULUS_BITS, Adder, Ciphertext, CKKSParameters, PublicKey, SecretKey

__all__ = ["MAX_MODULUS_BITS", "Adder", "CKKSParameters", "Ciphertext", "PublicKey", "SecretKey"]
