"""Keys of CKKS and BFV on SEAL: refusals, seeds, and no secret in sight."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
from lattice_codes import CODES, bytes_of
from tenseal import sealapi

from fedpriv.crypto.lattice import Adder, CKKSCode, CKKSParameters, PublicKey, SecretKey, SharedSecretKey, seal
from fedpriv.errors import MalformedMessage


def test_foreign_keys_are_malformed(key: SecretKey) -> None:
    other = SharedSecretKey(next(code for code in CODES.values() if code.parameters != key.code.parameters))
    for data in (b"", b"key", bytes(1000), other.public.to_bytes(), key.public.to_bytes()[:-1], bytes_of(key)):
        with pytest.raises(MalformedMessage):
            PublicKey(key.code, data)
    for data in (b"", b"key", bytes(1000), other.to_bytes(), bytes_of(key)[:-1], key.public.to_bytes()):
        with pytest.raises(MalformedMessage) as refusal:
            SharedSecretKey.from_bytes(key.code, data)
        assert str(refusal.value.value) == f"{len(data)} bytes"


# --- seeds ----------------------------------------------------------------------------------------------------------


def test_seeded_uploads_are_half_as_large(key: SecretKey) -> None:
    vector = np.arange(key.code.slots, dtype=np.int64)
    seeded, full = key.encrypt(vector), key.public.encrypt(vector)
    assert len(seeded) <= 0.51 * len(full)
    assert len(Adder(key.code).load(seeded).to_bytes()) > 0.95 * len(full), "an aggregate is not seeded"


def test_seeds_are_fresh_and_found(key: SecretKey) -> None:
    vector, adder = np.zeros(key.code.slots, dtype=np.int64), Adder(key.code)
    uploads = [key.encrypt(vector) for _ in range(20)]
    seeds = [adder.seed_of(upload) for upload in uploads]
    assert None not in seeds
    assert len({*seeds}) == 20
    assert [adder.seed_of(upload) for upload in uploads] == seeds, "of the seed, not of the call"
    first = adder.load(uploads[0])
    assert first.seed == seeds[0]
    adder.add(first, adder.load(uploads[1]))
    assert first.seed is None, "a sum has none"
    full = key.public.encrypt(vector)
    assert adder.seed_of(full) is adder.load(full).seed is None


def test_two_vectors_under_one_seed_share_its_name() -> None:
    """The repeat that a server must refuse: SEAL is given one seed twice, as a broken generator would."""
    for name in ("CKKS, one prime", "BFV, one prime"):
        code = CODES[name]
        ring = seal.context(code.parameters)
        chosen = ring.seal.key_context_data().parms()
        chosen.set_random_generator(sealapi.Blake2xbPRNGFactory([1] * 8))
        broken = sealapi.SEALContext(chosen, True, sealapi.SEC_LEVEL_TYPE.TC128)
        encryptor = sealapi.Encryptor(broken, sealapi.KeyGenerator(broken).secret_key())
        uploads = [seal.dump(encryptor.encrypt_symmetric(code.encode(np.full(code.slots, i)))) for i in (1, 2)]
        assert uploads[0] != uploads[1]
        assert Adder(code).seed_of(uploads[0]) == Adder(code).seed_of(uploads[1])


@pytest.mark.parametrize("parameters", [(2048, (20,)), (2048, (32,)), (2048, (38,)), (8192, (60, 60))], ids=str)
def test_seeded_and_full_are_told_apart_by_size(parameters: tuple[int, tuple[int, ...]]) -> None:
    """How far SEAL's compression is from the entropy depends on the bits of q: 20 and 38 are bad, 32 and 60 good."""
    code = CKKSCode(CKKSParameters(degree=parameters[0], moduli=parameters[1]), 4.0)
    key, zeros = SecretKey(code), np.zeros(code.slots, dtype=np.int64)
    assert Adder(code).seed_of(key.encrypt(zeros)) is not None
    assert Adder(code).seed_of(key.public.encrypt(zeros)) is None


# --- secrets --------------------------------------------------------------------------------------------------------


def test_encryption_is_randomised(by: PublicKey | SecretKey) -> None:
    zeros = np.zeros(by.code.slots, dtype=np.int64)
    assert by.encrypt(zeros) != by.encrypt(zeros)


def test_seal_seeds_itself_from_the_operating_system(key: SecretKey) -> None:
    assert seal.context(key.code.parameters).seal.key_context_data().parms().random_generator().use_random_seed()


def test_keys_differ(key: SecretKey) -> None:
    kinds = [SecretKey(key.code), SecretKey(key.code), SharedSecretKey(key.code), SharedSecretKey(key.code)]
    assert len({one.key_id for one in kinds} | {key.key_id}) == 5
    assert all(len(one.key_id) == 16 for one in kinds)
    assert kinds[0].key_id == kinds[0].public.key_id


def test_secret_keys_are_not_shown_copied_or_pickled(key: SecretKey) -> None:
    alone = SecretKey(key.code)
    scheme = "CKKSCode" if isinstance(key.code, CKKSCode) else "BFVCode"
    assert repr(alone) == f"<{scheme} secret key {alone.key_id.hex()}>"
    assert repr(alone.public) == f"<{scheme} public key {alone.key_id.hex()}>"
    assert repr(key) == f"<{scheme} secret key {key.key_id.hex()}>"
    for move in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="not copied"):
            move(alone)


def test_shared_keys_pickle_and_decrypt_elsewhere(key: SecretKey) -> None:
    assert isinstance(key, SharedSecretKey)
    twin = pickle.loads(pickle.dumps(key))
    assert (twin.key_id, twin.code, twin.key_bytes) == (key.key_id, key.code, len(key.to_bytes()))
    vector = np.arange(key.code.slots, dtype=np.int64)
    assert np.array_equal(twin.decrypt(key.encrypt(vector)), vector)
    assert np.array_equal(key.decrypt(twin.encrypt(vector)), vector)
    assert np.array_equal(key.decrypt(twin.public.encrypt(vector)), vector)


def _encrypt_there(key: PublicKey | SharedSecretKey, queue: multiprocessing.Queue[tuple[bytes, bytes]]) -> None:
    queue.put((key.key_id, key.encrypt(np.full(key.code.slots, 7))))


def test_keys_encrypt_in_a_spawned_process() -> None:
    """Contexts are not pickled: they are rebuilt from the parameters."""
    spawn = multiprocessing.get_context("spawn")
    held = SharedSecretKey(CODES["BFV, one prime"])
    alone = SecretKey(CODES["CKKS, one prime"])
    queue = spawn.Queue()
    for sender, key in ((held, held), (alone.public, alone)):
        process = spawn.Process(target=_encrypt_there, args=(sender, queue))
        process.start()
        name, data = queue.get(timeout=60)
        process.join(timeout=60)
        assert name == key.key_id
        assert (key.decrypt(data) == 7).all()


def test_the_adder_and_the_public_key_hold_no_secret(key: SecretKey) -> None:
    assert [*vars(Adder(key.code))] == ["code"]
    public = PublicKey(key.code, key.public.to_bytes())
    assert public.key_id == key.public.key_id
    with pytest.raises((RuntimeError, ValueError)):
        public._encryptor.encrypt_symmetric(key.code.encode(np.zeros(key.code.slots, dtype=np.int64)))


def test_files_for_seal_are_private_and_gone(key: SecretKey, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Without memfd, as on macOS."""
    import os
    import pathlib
    import tempfile

    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    zeros = np.zeros(key.code.slots, dtype=np.int64)
    with seal._file() as (_, path):
        assert pathlib.Path(path).parent == tmp_path
        assert pathlib.Path(path).stat().st_mode & 0o777 == 0o600
    assert not key.decrypt(key.encrypt(zeros)).any()
    with pytest.raises(MalformedMessage):
        key.decrypt(key.encrypt(zeros)[:-1])
    assert not list(pathlib.Path(str(tmp_path)).iterdir())
