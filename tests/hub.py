"""A stand-in for the Hugging Face Hub: a server on this machine that hands out the files of local folders."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch


class Hub:
    """Models by name, each a folder; their only revision is `main`. Counts what is fetched."""

    def __init__(self, models: dict[str, Path]):
        self.models, self.fetched = models, Counter[str]()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of a request."""
        path = path.partition("?")[0].removeprefix("/")
        asked = path.removeprefix("api/models/").split("/")
        folder = self.models.get("/".join(asked[:2]))
        if folder is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        sha, what, rest = hashlib.sha1(str(folder).encode()).hexdigest(), asked[2], asked[3:]
        if rest[0] not in ("main", sha):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if what == "revision":
            return 200, {}, json.dumps({"id": "/".join(asked[:2]), "sha": sha, "siblings": []}).encode()
        if what == "tree":
            sizes = {p.name: p.stat().st_size for p in folder.iterdir()}
            return (
                200,
                {},
                json.dumps([{"type": "file", "path": n, "size": s, "oid": n} for n, s in sizes.items()]).encode(),
            )
        content = (folder / rest[1]).read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": sha}, content

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Make the class that answers."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, content = hub.answer(self.path)
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    hub.fetched[self.path.rpartition("/")[2]] += 1
                    self.wfile.write(content)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None: ...

        return Handler


@contextmanager
def serving(models: dict[str, Path], cache: Path) -> Iterator[Hub]:
    """Be the Hub of this process, with a cache of its own."""
    hub = Hub(models)
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub.handler())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    constants = "huggingface_hub.constants."
    changes = {"ENDPOINT": place, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": False}
    changes["HUGGINGFACE_CO_URL_TEMPLATE"] = place + "/{repo_id}/resolve/{revision}/{filename}"
    patches = [patch(constants + key, value) for key, value in changes.items()]
    try:
        for one in patches:
            one.start()
        yield hub
    finally:
        for one in patches:
            one.stop()
        server.shutdown()
        server.server_close()
        thread.join()
