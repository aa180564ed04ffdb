"""Files: verified wherever they come from, downloaded once, and never half there. The server is a real one, local."""

import gzip
import hashlib
import io
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pooch
import pytest

from fedpriv.data import files
from fedpriv.data.files import DataFile
from fedpriv.errors import DataUnavailable

CONTENTS = b"63.0,1.0,?,145.0\n" * 400


def sha(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


class Server:
    """Serves what is in ``pages`` and remembers what was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                page = outer.pages.get(self.path)
                if page is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page[: len(page) // 2] if self.path in outer.cut else page)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache, no data folder, no proxy between us and the server."""
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("FEDPRIV_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache" / "fedpriv"


def left_behind(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*") if path.is_file()]


def test_a_file_is_downloaded_once(server: Server, cache: Path) -> None:
    server.pages["/table.data"] = CONTENTS
    file = DataFile(path="set/table.data", sha256=sha(CONTENTS), urls=(f"{server.url}/table.data",))
    assert file.read() == CONTENTS
    assert file.read() == CONTENTS
    assert server.asked == ["/table.data"]
    assert left_behind(cache) == ["table.data"]


def test_a_member_of_an_archive_and_a_packed_file(server: Server, cache: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("readme", "not this")
        opened.writestr("table.data", CONTENTS)
    packed = gzip.compress(CONTENTS)
    server.pages |= {"/all.zip": archive.getvalue(), "/table.gz": packed}
    member = DataFile(path="set/table.data", sha256=sha(CONTENTS), urls=(f"{server.url}/all.zip#table.data",))
    assert member.read() == CONTENTS
    unpacked = DataFile(
        path="set/table.gz", sha256=sha(CONTENTS), urls=(f"{server.url}/table.gz",), packed_sha256=sha(packed)
    )
    assert unpacked.read() == CONTENTS
    assert sorted(left_behind(cache)) == ["table.data", "table.gz"]
    absent = DataFile(path="set/none.data", sha256=sha(CONTENTS), urls=(f"{server.url}/all.zip#none.data",))
    with pytest.raises(DataUnavailable, match=r"none\.data"):
        absent.read()


@pytest.mark.parametrize("fault", ["other contents", "cut short", "not found", "archive cut short"])
def test_a_bad_download_leaves_nothing_that_looks_whole(server: Server, cache: Path, fault: str) -> None:
    url, name = f"{server.url}/table.data", "/table.data"
    if fault == "archive cut short":
        url, name = f"{server.url}/all.zip#table.data", "/all.zip"
    if fault != "not found":
        server.pages[name] = CONTENTS.replace(b"1.0", b"1.1", 1) if fault == "other contents" else CONTENTS
    if "cut short" in fault:
        server.cut.add(name)
    file = DataFile(path="set/table.data", sha256=sha(CONTENTS), urls=(url,))
    with pytest.raises(DataUnavailable, match=r"No address delivered set/table\.data whole.*set FEDPRIV_DATA="):
        file.read()
    assert left_behind(cache) == []


def test_the_next_address_is_tried(server: Server, cache: Path) -> None:
    server.pages |= {"/second": b"something else", "/third": CONTENTS}
    urls = tuple(f"{server.url}/{name}" for name in ("first", "second", "third"))
    assert DataFile(path="set/table.data", sha256=sha(CONTENTS), urls=urls).read() == CONTENTS
    assert server.asked == ["/first", "/second", "/third"]


def test_a_damaged_cache_is_downloaded_again(server: Server, cache: Path) -> None:
    server.pages["/table.data"] = CONTENTS
    file = DataFile(path="set/table.data", sha256=sha(CONTENTS), urls=(f"{server.url}/table.data",))
    file.read()
    (cache / "set" / "table.data").write_bytes(CONTENTS[:100])
    assert file.read() == CONTENTS
    assert len(server.asked) == 2


def test_with_a_data_folder_nothing_is_downloaded(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["/table.data"] = CONTENTS
    file = DataFile(path="set/table.data", sha256=sha(CONTENTS), urls=(f"{server.url}/table.data",))
    monkeypatch.setenv("FEDPRIV_DATA", str(tmp_path / "folder"))
    with pytest.raises(DataUnavailable, match=r"missing.*or unset FEDPRIV_DATA"):
        file.read()
    (tmp_path / "folder" / "set").mkdir(parents=True)
    (tmp_path / "folder" / "set" / "table.data").write_bytes(CONTENTS)
    assert file.read() == CONTENTS
    assert server.asked == []
    (tmp_path / "folder" / "set" / "table.data").unlink()
    (tmp_path / "folder" / "set" / "table.data").mkdir()
    with pytest.raises(DataUnavailable, match="cannot be read"):
        file.read()


REAL = [files.SMS_SPAM, files.HEART_DISEASE["va"], files.MNIST["test_y"]]


@pytest.mark.parametrize("file", REAL, ids=lambda file: file.path)
@pytest.mark.usefixtures("data_folder")
def test_a_flipped_bit_or_a_lost_end_of_a_real_file_is_found(
    file: DataFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = file.read()
    packed = gzip.compress(contents) if file.path.endswith(".gz") else contents
    monkeypatch.setenv("FEDPRIV_DATA", str(tmp_path))
    copy = tmp_path / file.path
    copy.parent.mkdir(parents=True)
    copy.write_bytes(packed)
    assert file.read() == contents  # packed anew it is the same data
    middle = len(packed) // 2
    flipped = packed[:middle] + bytes([packed[middle] ^ 1]) + packed[middle + 1 :]
    for damaged in (flipped, packed[:-9], packed[:middle], b""):
        copy.write_bytes(damaged)
        with pytest.raises(DataUnavailable, match="good copy"):
            file.read()
    if packed is not contents:
        copy.write_bytes(gzip.compress(contents[:-1] + b"\x00"))  # sound packing of other data
        with pytest.raises(DataUnavailable, match="damaged"):
            file.read()
