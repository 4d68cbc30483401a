"""A hub of models on this machine, over HTTP, as huggingface_hub asks one; its cache is a folder of the test."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import huggingface_hub.constants

MAIN = "main"


class Hub:
    """models: by id, the revisions by name, each a folder. status: what the hub answers to everything, if not 200."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Path]] = {}
        self.status = 200
        self.requests: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a GET."""
        parts = unquote(path.split("?")[0]).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        name, (verb, revision, *rest) = "/".join(parts[:2]), parts[2:] or ["revision", MAIN]
        if self.status != 200:
            return self.status, {}, b"{}"
        if name not in self.models:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        folder = next((own for key, own in self.models[name].items() if revision in (key, commit(own))), None)
        if folder is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        files = sorted(folder.iterdir())
        if is_api and verb == "tree":
            listed = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": etag(file)} for file in files
            ]
            return 200, {}, json.dumps(listed).encode()
        if is_api:
            siblings = [{"rfilename": file.name} for file in files]
            return 200, {}, json.dumps({"id": name, "sha": commit(folder), "siblings": siblings}).encode()
        file = folder / "/".join(rest)
        return 200, {"X-Repo-Commit": commit(folder), "ETag": f'"{etag(file)}"'}, file.read_bytes()


def etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


def commit(folder: Path) -> str:
    """Forty letters, the same for a folder of equal files."""
    return hashlib.sha1("".join(file.name + etag(file) for file in sorted(folder.iterdir())).encode()).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The hub's address, while it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(monkeypatch, address: str, cache: Path, *, offline: bool = False) -> None:
    """Let this process ask that hub, and keep what it fetches there."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
