"""A server that hands out the files of a folder, by HTTP and as s3fs asks S3 for them, and fails as planned."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

FAULTS = ("drop", "stall", "corrupt", "refuse", "short")


class Server(ThreadingHTTPServer):
    """Files below `folder`. `faults` are used up one by one by GET requests of files whose name matches `on`."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.faults: list[str] = []
        self.on = r"\.tar$"
        self.stall = 2.0  # seconds
        self.asked: list[tuple[str, str]] = []  # name and range of each GET
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def plan(self, *faults: str) -> None:
        assert set(faults) <= set(FAULTS)
        self.faults = list(faults)

    def next_fault(self, name: str) -> str:
        with self.lock:
            return self.faults.pop(0) if self.faults and re.search(self.on, name) else ""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        parts = urlsplit(self.path)
        name, query = unquote(parts.path).strip("/"), parse_qs(parts.query, keep_blank_values=True)
        if "list-type" in query:
            self._list(name, query["prefix"][0] if "prefix" in query else "")
            return
        file = self.server.folder / name
        if not file.is_file():
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>" if with_body else b"")
            return
        content, wanted = file.read_bytes(), re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        whole, code = len(content), 200
        headers = {"Accept-Ranges": "bytes", "ETag": '"e"', "Last-Modified": formatdate(usegmt=True)}
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or whole - 1), whole - 1)
            content, code = content[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{last}/{whole}"
        if not with_body:
            self._send(code, b"", len(content), headers)
            return
        with self.server.lock:
            self.server.asked.append((name, self.headers.get("Range", "")))
        match self.server.next_fault(name):
            case "refuse":
                self._send(503, b"")
            case "stall":
                time.sleep(self.server.stall)
                self.close_connection = True
            case "drop":
                self._send(code, content[: len(content) // 2], len(content), headers)
                self.close_connection = True
            case "short":
                self._send(code, content[:-1], None, headers)
            case "corrupt":
                wrong = bytearray(content)
                wrong[len(content) // 2] ^= 255
                self._send(code, bytes(wrong), None, headers)
            case _:
                self._send(code, content, None, headers)

    def _list(self, bucket: str, prefix: str) -> None:
        """Answer ListObjectsV2 as S3 does."""
        root = self.server.folder / bucket
        names = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if p.is_file()]
        rows = "".join(
            f"<Contents><Key>{name}</Key><Size>{(root / name).stat().st_size}</Size><ETag>e</ETag>"
            "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in names
            if name.startswith(prefix)
        )
        self._send(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode())

    def _send(
        self, code: int, content: bytes, length: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        try:
            self.send_response(code)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)
        except ConnectionError:  # the other side has given up
            self.close_connection = True


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve a folder until the block ends."""
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
