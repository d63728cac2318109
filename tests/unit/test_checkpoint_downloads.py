"""Checkpoints from addresses: each fetched once, whole or not at all, whoever asks at once."""

import hashlib
import io
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from swin_backbone.checkpoints import CheckpointError, read_checkpoint
from swin_backbone.checkpoints.checkpoint_sources import fetch


def file_with(value, size=1):
    buffer = io.BytesIO()
    torch.save({"a": torch.full((size,), float(value))}, buffer)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Sends ``server.pages[path]``: content, and what is wrong with the answer, if anything."""

    def do_GET(self):
        server = self.server
        server.asked[self.path] += 1
        content, fault = server.pages.get(self.path, (b"", 404))
        fault = fault(server.asked[self.path]) if callable(fault) else fault
        self.send_response(fault if isinstance(fault, int) else 200)
        if fault == "chunks cut":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(f"{len(content):x}\r\n".encode() + content[:100])
            return
        if fault != "no length":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "cut":
            content = content[:-50]
        self.wfile.write(content[:1000])
        if fault == "slow":
            self.wfile.flush()
            server.begun.set()
            server.go_on.wait(60)
        self.wfile.write(content[1000:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of this machine, and an empty cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.pages, server.asked = {}, Counter()
    server.begun, server.go_on = threading.Event(), threading.Event()
    server.at = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()


def left_behind(folder):
    """All files of the cache but the empty ones that processes lock."""
    return [path.name for path in Path(folder).rglob("*") if path.is_file() and path.stat().st_size]


def test_files_of_one_name_at_several_addresses_are_several_files(server, tmp_path):
    paths = ["/a/model.pth", "/b/model.pth", "/a/model.pth?v=2", "/a/model.pth?v=3", "/"]
    server.pages = {path: (file_with(value), None) for value, path in enumerate(paths)}
    for _ in range(2):
        for value, path in enumerate(paths):
            assert read_checkpoint(server.at + path)["a"].item() == value
    assert server.asked == dict.fromkeys(paths, 1)
    assert sorted(left_behind(tmp_path)) == ["checkpoint", *["model.pth"] * 4]


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "a%2F..%2F..%2Fb.pth", ".lock", "x" * 400, "a%00b"]
)
def test_an_address_cannot_choose_where_it_is_stored(server, tmp_path, name):
    server.pages = {f"/files/{name}": (file_with(3), None)}
    path = fetch(f"{server.at}/files/{name}")
    assert read_checkpoint(path)["a"].item() == 3
    assert path.parent.parent == tmp_path / "checkpoints"


BROKEN = {
    "cut": (file_with(1), "cut", "broke off after 1[0-9]* of 1[0-9]* bytes"),
    "chunks cut": (file_with(1), "chunks cut", "cannot be downloaded: IncompleteRead"),
    "not found": (b"gone", 404, "HTTP Error 404"),
    "server's error": (b"oops", 500, "HTTP Error 500"),
    "page": (b"\n<!DOCTYPE html><html>Log in</html>", None, "sends is an HTML page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", None, "a Git LFS pointer"),
    "nothing": (b"", None, "sends is empty"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_download_leaves_nothing_behind_and_can_be_tried_again(server, tmp_path, fault):
    content, how, message = BROKEN[fault]
    server.pages = {"/model.pth": (content, how)}
    for _ in range(2):
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(f"{server.at}/model.pth")
        assert left_behind(tmp_path) == []
    server.pages = {"/model.pth": (file_with(2), "no length")}
    assert read_checkpoint(f"{server.at}/model.pth")["a"].item() == 2


def test_an_address_without_a_server_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for address in ("http://127.0.0.1:9/model.pth", "http://[/model.pth"):
        with pytest.raises((CheckpointError, ValueError), match=r"cannot be downloaded|Invalid"):
            read_checkpoint(address)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("length", [8, 12, 64])
def test_the_hash_in_a_name_is_checked(server, tmp_path, length):
    content = file_with(4)
    digest = hashlib.sha256(content).hexdigest()[:length]
    other = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    server.pages = {f"/swin_20220317-{name}.pth": (content, None) for name in (digest, other)}
    assert read_checkpoint(f"{server.at}/swin_20220317-{digest}.pth")["a"].item() == 4
    with pytest.raises(CheckpointError, match=rf"SHA-256 {digest}.* its name says {other}"):
        read_checkpoint(f"{server.at}/swin_20220317-{other}.pth")
    assert left_behind(tmp_path) == [f"swin_20220317-{digest}.pth"]


@pytest.mark.parametrize("name", ["swin-20220317.pth", "swin-abc.pth", "swin-large.pth", "a-b.pth"])
def test_a_date_or_a_word_is_no_hash(server, name):
    server.pages = {f"/{name}": (file_with(5), None)}
    assert read_checkpoint(f"{server.at}/{name}")["a"].item() == 5


def ask(address, results):
    try:
        results.put(float(read_checkpoint(address)["a"][0]))
    except Exception as error:
        results.put(repr(error))


def start(address, count):
    """Processes that ask for an address, and where they put what they got."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=ask, args=(address, results)) for _ in range(count)]
    for process in processes:
        process.start()
    return processes, results


def test_one_process_fetches_while_the_others_wait(server):
    server.pages = {"/model.pth": (file_with(6, 10_000), "slow")}
    processes, results = start(f"{server.at}/model.pth", 4)
    assert server.begun.wait(60)
    time.sleep(0.3)  # for the others to arrive
    assert results.empty()
    server.go_on.set()
    assert [results.get(timeout=60) for _ in processes] == [6.0] * 4
    for process in processes:
        process.join(60)
    assert server.asked["/model.pth"] == 1


def test_when_the_fetching_process_is_killed_another_goes_on(server, tmp_path):
    slow_once = lambda asked: "slow" if asked == 1 else None  # noqa: E731
    server.pages = {"/model.pth": (file_with(7, 10_000), slow_once)}
    address = f"{server.at}/model.pth"
    first, _ = start(address, 1)
    assert server.begun.wait(60)
    others, results = start(address, 2)
    os.kill(first[0].pid, signal.SIGKILL)
    assert [results.get(timeout=60) for _ in others] == [7.0] * 2
    for process in (*first, *others):
        process.join(60)
    assert server.asked["/model.pth"] == 2
    assert left_behind(tmp_path) == ["model.pth"]
