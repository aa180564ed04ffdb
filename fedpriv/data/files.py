"""The files of data sets: from a folder of the user's, or fetched once, and never used unless their checksum holds.

What was not reproduced: the public addresses themselves. Download, archives, mirrors and damage are tested against a
local server; that these addresses deliver files with these checksums is as others recorded it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import textwrap
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedpriv.errors import DataUnavailable

FOLDER = "FEDPRIV_DATA"
"""The environment variable that names a folder of data sets (``mnist/``, ``sms_spam/``, ``heart_disease/``). Where it
is set nothing is downloaded."""


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of a data set.

    Args:
        path: under the data folder or the cache, e.g. ``mnist/t10k-labels-idx1-ubyte.gz``.
        sha256: of its contents; of a ``.gz`` file, of what it unpacks to, whoever packed it.
        urls: where it is public, tried in turn. ``….zip#member`` is a member of an archive.
        packed_sha256: of the ``.gz`` file itself at these addresses.
    """

    path: str
    sha256: str
    urls: tuple[str, ...]
    packed_sha256: str | None = None

    def read(self) -> bytes:
        """The contents, unpacked and verified.

        Raises:
            DataUnavailable: the file is missing, damaged, or cannot be downloaded.
        """
        folder = os.environ.get(FOLDER)
        file = Path(folder).expanduser() / self.path if folder else self._fetch()
        remedy = (
            f"Put a good copy there, e.g. from {self.urls[0]}, or unset {FOLDER} to have it downloaded."
            if folder
            else "Delete the file, so that it is downloaded again."
        )
        try:
            contents = file.read_bytes()
            if file.suffix == ".gz":
                contents = gzip.decompress(contents)
        except FileNotFoundError:
            raise DataUnavailable("A file of the data set is missing.", value=str(file), remedy=remedy) from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataUnavailable(
                f"A file of the data set cannot be read ({error}).", value=str(file), remedy=remedy
            ) from error
        if hashlib.sha256(contents).hexdigest() != self.sha256:
            raise DataUnavailable(
                f"A file of the data set is damaged: its contents do not have the SHA-256 {self.sha256}.",
                value=str(file),
                remedy=remedy,
            )
        return contents

    def _fetch(self) -> Path:
        """The file in the user's cache, downloaded where it is not there or not whole.

        Pooch downloads to a temporary name, verifies the checksum, and only then moves the file into place.
        """
        import pooch  # type: ignore[import-untyped]

        cache = Path(pooch.os_cache("fedpriv"))
        failures: list[str] = []
        for url in self.urls:
            try:
                pooch.retrieve(
                    url=url,
                    known_hash=f"sha256:{self.packed_sha256 or self.sha256}",
                    fname=Path(self.path).name,
                    path=(cache / self.path).parent,
                    downloader=_member if "#" in url else None,
                )
                return cache / self.path
            # A dead network, a full disk, a moved page, a bad checksum: all mean "try the next address".
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                failures.append(f"{url}: {type(error).__name__}: {textwrap.shorten(str(error), 100)}")
        raise DataUnavailable(
            f"No address delivered {self.path} whole.",
            value="; ".join(failures),
            remedy=f"Check the connection, or put the file under <folder>/{self.path} and set {FOLDER}=<folder>.",
        )


def _member(url: str, output_file: str, pooch: object, check_only: bool = False) -> bool | None:
    """Download an archive and write one member of it to ``output_file``, as one of pooch's downloaders."""
    from pooch import HTTPDownloader

    archive, _, member = url.partition("#")
    download: Callable[..., bool | None] = HTTPDownloader()
    if check_only:
        return download(archive, None, pooch, check_only=True)
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "archive.zip"
        download(archive, str(packed), pooch)
        with zipfile.ZipFile(packed) as opened:
            Path(output_file).write_bytes(opened.read(member))
    return None


def _uci(number: int, archive: str, member: str) -> str:
    return f"https://archive.ics.uci.edu/static/public/{number}/{archive}.zip#{member}"


def _mnist(name: str, sha256: str, packed_sha256: str) -> DataFile:
    mirrors = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
    urls = tuple(f"{mirror}/{name}.gz" for mirror in mirrors)
    return DataFile(path=f"mnist/{name}.gz", sha256=sha256, urls=urls, packed_sha256=packed_sha256)


def _heart(hospital: str, sha256: str) -> DataFile:
    name = f"processed.{hospital}.data"
    direct = f"https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/{name}"
    return DataFile(path=f"heart_disease/{name}", sha256=sha256, urls=(direct, _uci(45, "heart+disease", name)))


MNIST = {
    "train_x": _mnist(
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train_y": _mnist(
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "test_x": _mnist(
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "test_y": _mnist(
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}
"""Y. LeCun and C. Cortes; CC BY-SA 3.0."""

SMS_SPAM = DataFile(
    path="sms_spam/SMSSpamCollection",
    sha256="7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d",
    urls=(_uci(228, "sms+spam+collection", "SMSSpamCollection"),),
)
"""T. A. Almeida, J. M. Gómez Hidalgo, A. Yamakami, DocEng 2011; CC BY 4.0. Real people's messages."""

HEART_DISEASE = {
    "cleveland": _heart("cleveland", "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8"),
    "hungarian": _heart("hungarian", "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796"),
    "switzerland": _heart("switzerland", "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314"),
    "va": _heart("va", "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f"),
}
"""A. Janosi, W. Steinbrunn, M. Pfisterer, R. Detrano, 1988; CC BY 4.0."""
