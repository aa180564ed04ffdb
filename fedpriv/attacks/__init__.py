"""What an observer can do with what it saw."""

from fedpriv.attacks.ckks import KeyRecovery, can_try, ckks_key_recovery, read_ckks, slots_of
from fedpriv.crypto.lattice.raw_tenseal import read as read_tenseal
from fedpriv.crypto.lattice.ring import RawCiphertext

__all__ = ["KeyRecovery", "RawCiphertext", "can_try", "ckks_key_recovery", "read_ckks", "read_tenseal", "slots_of"]
