"""A Hugging Face Hub on this machine: one repository, the few routes that huggingface_hub asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves `files` as `owner/name`; `gated` refuses them; `asked` are the paths of every request."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], gated: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.gated = files, gated
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        files = self.server.files
        if not path.startswith(("/api/models/owner/name", "/owner/name/resolve/")):
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body)
        elif path.startswith("/owner/name/resolve/"):
            name = path.split("/", 5)[5]
            if self.server.gated:
                self._send(403, b"", {"X-Error-Code": "GatedRepo"}, with_body)
            elif name in files:
                etag = hashlib.sha256(files[name]).hexdigest()
                self._send(200, files[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, with_body)
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
        elif "/tree/" in path:
            self._json(
                [{"type": "file", "oid": "0" * 40, "size": len(d), "path": n} for n, d in files.items()], with_body
            )
        else:
            siblings = [{"rfilename": name, "size": len(data), "blobId": "0" * 40} for name, data in files.items()]
            self._json({"id": "owner/name", "sha": COMMIT, "siblings": siblings, "gated": "manual"}, with_body)

    def _json(self, value: Any, with_body: bool) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
