"""A Hub on this machine: what resolving and downloading models and data sets asks for, over HTTP."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LoopbackHub(BaseHTTPRequestHandler):
    """Has the repositories of ``root`` (owner/name/files); a subclass says which, and counts in ``fetched`` what was
    downloaded, in order. A repository called gated or down behaves as it is called."""

    root: Path
    fetched: list[str]

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] in (["api", "datasets"], ["api", "models"]):
            return self.tell("/".join(parts[2:4]), parts[4:])
        if parts[0] == "datasets":
            del parts[0]
        if parts[2:3] == ["resolve"] and parts[3] in (COMMIT, "main"):
            return self.hand_over("/".join(parts[:2]), "/".join(parts[4:]))
        self.give(404, b"")

    do_HEAD = do_GET

    def tell(self, name: str, asked: list[str]) -> None:
        folder = self.root / name
        if name.endswith("/down"):
            return self.give(500, b"")
        if not folder.is_dir():
            return self.give(404, b"", {"X-Error-Code": "RepoNotFound"})
        if asked[:1] == ["revision"] and asked[1] not in ("main", COMMIT):
            return self.give(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        if asked[:1] == ["tree"]:
            tree = [{"type": "file", "path": path, "oid": "0" * 40, "size": size} for path, size in sizes.items()]
            return self.give(200, json.dumps(tree).encode())
        about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in sizes]}
        self.give(200, json.dumps(about | {"private": False, "downloads": 0, "likes": 0, "tags": []}).encode())

    def hand_over(self, name: str, path: str) -> None:
        if name.endswith("/gated"):
            return self.give(403, b"", {"X-Error-Code": "GatedRepo"})
        file = self.root / name / path
        if not file.is_file():
            return self.give(404, b"", {"X-Error-Code": "EntryNotFound"})
        if self.command == "GET":
            self.fetched.append(f"{name}/{path}")
        tag = hashlib.sha256(file.read_bytes()).hexdigest()
        self.give(200, file.read_bytes(), {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def give(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        """Quiet."""
