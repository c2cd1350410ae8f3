"""The files of corpora: checked and read as they stand, downloaded safely."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import files
from experiments.data import DataError
from experiments.files import checksums, fetch
from experiments.reading import read_columns, read_pairs

# --- reading ---------------------------------------------------------------------------------------------------------

FIELDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\t\n\r\0"), min_size=1, max_size=12
).filter(lambda text: bool(text.strip()) and not text.startswith("\ufeff"))  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(st.tuples(FIELDS, FIELDS), min_size=1, max_size=15), end=st.sampled_from(["\n", "\r\n"]))
def test_every_field_arrives_as_it_stands(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], end: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "pairs.tsv"
    path.write_bytes("".join(f"{source}\t{target}{end}" for source, target in rows).encode())
    table = read_pairs(path)
    assert list(zip(table["source"], table["target"], strict=True)) == rows


def test_a_compressed_file_is_the_file_in_it(tmp_path: Path) -> None:
    plain, compressed = tmp_path / "pairs.tsv", tmp_path / "pairs.tsv.gz"
    plain.write_bytes("a\tä\nb\tc\n".encode())
    compressed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_pairs(compressed)._fingerprint == read_pairs(plain)._fingerprint
    assert read_pairs(compressed).to_dict() == read_pairs(plain).to_dict()
    whole = compressed.read_bytes()
    for broken in (whole[:-3], whole[:12] + b"\xff\xff" + whole[14:], b"a\tb\n", whole[:5]):
        compressed.write_bytes(broken)
        with pytest.raises(DataError, match=r"pairs\.tsv\.gz: cannot be decompressed"):
            read_pairs(compressed)
    assert read_columns(plain, ("text",))["text"][:] == ["a\tä", "b\tc"]  # with one column, a tab is text
    compressed.write_bytes(gzip.compress(b"a\tb\nc\n"))
    with pytest.raises(DataError, match=r"pairs\.tsv\.gz, line 2: 0 tabs"):
        read_pairs(compressed)


AWKWARD = [
    ("NA", "null"),
    ("nan", "007"),
    ('"a', 'b "'),
    ("1e5", "True"),
    ("-", "#x"),
    (" a ", "\\t"),
    ("é", "e\u0301"),
]


def test_awkward_words_offline_and_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_network(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / ".a [hidden] folder with * in it"
    folder.mkdir()
    path = folder / "pairs.tsv"
    path.write_text("\n".join("\t".join(row) for row in AWKWARD))  # no newline at the end
    table = read_pairs(path)
    assert isinstance(table, datasets.Dataset)
    assert table.column_names == ["source", "target"]
    assert list(zip(table["source"], table["target"], strict=True)) == AWKWARD
    assert table._fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    monkeypatch.chdir(folder)
    assert read_pairs(Path("..", folder.name, path.name))["source"][:] == table["source"][:]
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "cache").exists()


def test_more_rows_than_one_chunk(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"word {n}\tanswer {n}\n" for n in range(25_000)))
    table = read_pairs(path)
    assert table["source"][:] == [f"word {n}" for n in range(25_000)]
    assert table["target"][:] == [f"answer {n}" for n in range(25_000)]


def test_a_changed_file_of_the_same_name_size_and_time_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("a\tx\n")
    before = path.stat()
    assert read_pairs(path)["target"][:] == ["x"]
    path.write_text("a\ty\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_pairs(path)["target"][:] == ["y"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": the file is empty"),
        (b"\n", ", line 1: empty line"),
        (b"a\tb\n\nc\td\n", ", line 2: empty line"),
        (b"a\tb\n\n", ", line 2: empty line"),
        (b"a\tb\r\n\r\n", ", line 2: empty line"),
        (b"a\tb\nc d\n", ", line 2: 0 tabs"),
        (b"a\tb\tc\n", ", line 1: 2 tabs"),
        (b"a\t\n", ", line 1: the target is empty"),
        (b"a\tb\n \tb\n", ", line 2: the source is empty"),
        (b"a\tb\na\0\tb\n", ", line 2: holds a NUL byte"),
        (b"a\rb\tc\n", ", line 1: holds a carriage return"),
        (b"a\tb\nab\xe9\tb\n", r", line 2: not UTF-8 \(byte 3 of the line is 0xe9\)"),
        (b"\xef\xbb\xbfa\tb\n", ", line 1: starts with a byte-order mark"),
        ("a\tb\n".encode("utf-16"), ", line 1: not UTF-8"),
    ],
)
def test_a_bad_file_is_refused_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"pairs.tsv{message}"):
        read_pairs(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tsv: cannot be read \(No such file"):
        read_pairs(tmp_path / "none.tsv")
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path)


# --- downloading -----------------------------------------------------------------------------------------------------

CONTENT = b"a\tx\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[[BaseHTTPRequestHandler, int], None]


class Server:
    """An HTTP server of this machine that gives `answer(handler, number of the request)`, counted from 1."""

    def __init__(self, answer: Answer) -> None:
        self.requests = 0
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                with lock:
                    self.requests += 1
                    number = self.requests
                answer(handler, number)

            def log_message(handler, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/pairs.tsv"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Server]]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(files, "DOWNLOAD_PAUSE", 0.0)
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def send(handler: BaseHTTPRequestHandler, content: bytes, length: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def good(handler: BaseHTTPRequestHandler, number: int) -> None:
    send(handler, CONTENT)


def files_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_download_lands_once(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    server = serve(good)
    path = tmp_path / "new" / "folder" / "pairs.tsv"
    assert fetch(server.url, path, SHA256) == path
    assert path.read_bytes() == CONTENT
    assert fetch(server.url, path, SHA256) == path
    assert server.requests == 1
    assert files_under(tmp_path) == ["pairs.tsv"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask  # as readable for others as any file


def test_a_file_that_is_there_needs_no_network(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(CONTENT)
    assert fetch("http://127.0.0.1:9/none", path, SHA256) == path


def test_another_file_in_its_place_is_named_and_kept(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    server = serve(good)
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"mine")
    with pytest.raises(DataError) as refused:
        fetch(server.url, path, SHA256)
    for part in (str(path), SHA256, hashlib.sha256(b"mine").hexdigest(), "LVT_DATA", server.url):
        assert part in str(refused.value)
    assert path.read_bytes() == b"mine"
    assert server.requests == 0


def test_wrong_content_never_lands(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda handler, number: send(handler, b"another file"))
    with pytest.raises(
        DataError, match=f"{server.url}: its content has the SHA-256 {hashlib.sha256(b'another file').hexdigest()}"
    ):
        fetch(server.url, tmp_path / "pairs.tsv", SHA256)
    assert files_under(tmp_path) == []


def test_not_found_is_final_and_names_url_and_remedy(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda handler, number: handler.send_error(404))
    with pytest.raises(DataError, match=r"HTTP Error 404.*--data DIR or LVT_DATA") as refused:
        fetch(server.url, tmp_path / "pairs.tsv", SHA256)
    assert server.url in str(refused.value)
    assert str(tmp_path / "pairs.tsv") in str(refused.value)
    assert server.requests == 1


def test_a_passing_fault_is_overcome(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    def third_time(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number == 1:
            handler.send_error(503)
        elif number == 2:
            send(handler, CONTENT[:100], length=len(CONTENT))
        else:
            send(handler, CONTENT)

    server = serve(third_time)
    assert fetch(server.url, tmp_path / "pairs.tsv", SHA256).read_bytes() == CONTENT
    assert server.requests == 3


def test_a_body_cut_short_never_lands(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda handler, number: send(handler, CONTENT[:100], length=len(CONTENT)))
    with pytest.raises(DataError, match="IncompleteRead"):
        fetch(server.url, tmp_path / "pairs.tsv", SHA256)
    assert server.requests == files.DOWNLOAD_ATTEMPTS
    assert files_under(tmp_path) == []


def test_a_server_that_is_gone(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/pairs.tsv"
        with pytest.raises(DataError, match=f"cannot download {url}: .*refused"):
            fetch(url, tmp_path / "pairs.tsv", SHA256)


def test_a_silent_server_is_given_up(
    tmp_path: Path, serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "DOWNLOAD_TIMEOUT", 0.1)
    over = threading.Event()

    def silent(handler: BaseHTTPRequestHandler, number: int) -> None:
        over.wait(30)

    server = serve(silent)
    try:
        with pytest.raises(DataError, match="timed out"):
            fetch(server.url, tmp_path / "pairs.tsv", SHA256)
    finally:
        over.set()


def test_two_at_once_both_succeed(
    tmp_path: Path, serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, written = threading.Barrier(2), threading.Barrier(2)

    def together(handler: BaseHTTPRequestHandler, number: int) -> None:
        asked.wait(30)  # neither is answered before the other has asked
        send(handler, CONTENT)

    replace = os.replace

    def after_both(partial: Path, path: Path) -> None:
        written.wait(30)  # nor put in its place before the other has written
        replace(partial, path)

    monkeypatch.setattr(os, "replace", after_both)
    server = serve(together)
    path = tmp_path / "folder" / "pairs.tsv"
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(fetch, server.url, path, SHA256) for _ in range(2)]
    assert [result.result() for result in results] == [path, path]
    assert path.read_bytes() == CONTENT
    assert files_under(tmp_path) == ["pairs.tsv"]


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    server = serve(good)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"pairs\.tsv: cannot be written"):
        fetch(server.url, tmp_path / "file" / "pairs.tsv", SHA256)


def test_a_write_that_fails_half_way_leaves_nothing(
    tmp_path: Path, serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match="No space left on device"):
        fetch(serve(good).url, tmp_path / "pairs.tsv", SHA256)
    assert files_under(tmp_path) == []


def test_checksums_are_read_as_sha256sum_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{SHA256}  folder/a file.tsv\n{'0' * 64}  b.tsv\n")
    assert checksums(path) == {"folder/a file.tsv": SHA256, "b.tsv": "0" * 64}
