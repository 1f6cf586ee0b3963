"""A Hub on this machine: HTTP servers that speak as much of the Hugging Face Hub's API as its client uses here.

Two servers, as in life: the Hub answers for repositories and redirects to a store ("CDN") on another address for large
files. Faults are set as attributes and take effect at the next request.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = ".safetensors"


@dataclass
class Request:
    server: str  # "hub" or "cdn"
    method: str
    path: str
    headers: dict

    @property
    def range(self):
        return self.headers.get("range")


@dataclass
class Faults:
    """What goes wrong, and how often."""

    cut_after: list = field(default_factory=list)  # of each next large answer: the bytes after which the line is cut
    end_after: int | None = None  # every large file has only so many bytes in the store
    flipped: bool = False  # the last byte of large files arrives inverted
    no_ranges: bool = False
    no_commit_header: bool = False
    status: dict = field(default_factory=dict)  # part of a path -> HTTP status
    error_code: dict = field(default_factory=dict)  # part of a path -> (HTTP status, X-Error-Code)
    store_status: list = field(default_factory=list)  # statuses of the next answers of the store


class HubServer:
    """Use as a context manager. `endpoint` is its address."""

    def __init__(self):
        self.repos = {}  # "owner/name" -> list of (commit, {path: bytes}), oldest first
        self.blobs = {}  # SHA-256 -> bytes
        self.requests = []
        self.created = []
        self.faults = Faults()
        self.write_token = None  # what uploads need, if set

    def __enter__(self):
        self._servers = [_Server(self, "hub"), _Server(self, "cdn")]
        self.endpoint, self.cdn = (server.address for server in self._servers)
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Hang up, for good; twice does no harm."""
        while self._servers:
            self._servers.pop().stop()

    def add(self, repo, files):
        """A commit with these files (path -> bytes) on top of the last; returns its hash."""
        commits = self.repos.setdefault(repo, [])
        before = commits[-1][1] if commits else {}
        after = {**before, **files}
        digest = hashlib.sha1(repr((len(commits), repo, sorted(after))).encode())
        for path in sorted(after):
            digest.update(after[path])
        commits.append((digest.hexdigest(), after))
        return commits[-1][0]

    def commit(self, repo, revision):
        """(hash, files) of a commit, or of "main"; None when there is none."""
        commits = self.repos[repo]
        if revision == "main":
            return commits[-1] if commits else None
        return next((c for c in commits if c[0] == revision), None)

    def gets(self, path=LARGE):
        """Requests that asked for content of files whose path has this in it, at the Hub."""
        return [r for r in self.requests if r.server == "hub" and r.method == "GET" and path in r.path]


class _Server:
    def __init__(self, hub, kind):
        handler = type("Handler", (_HubHandler if kind == "hub" else _StoreHandler,), {"hub": hub, "kind": kind})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    kind: str

    def do_GET(self):
        self._serve()

    def do_HEAD(self):
        self._serve()

    def do_POST(self):
        self._serve()

    def do_PUT(self):
        self._serve()

    def _serve(self):
        self.path = unquote(urlsplit(self.path).path)  # a proxy is asked with the whole address
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.kind, self.command, self.path, headers))
        self.body = self.rfile.read(int(headers.get("content-length", 0)))
        self.answer()

    def send(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_cut(self, body, stated, status=200, **headers):
        """Say that `stated` bytes come, send fewer and hang up."""
        self.send_response(status)
        for name, value in {"Content-Length": stated, "Connection": "close", **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_):
        pass


class _HubHandler(_Handler):
    def answer(self):
        hub, path = self.hub, self.path
        for part, status in hub.faults.status.items():
            if part in path:
                return self.send(status)
        for part, (status, code) in hub.faults.error_code.items():
            if part in path:
                return self.send(status, X_Error_Code=code)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*found.groups())
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(found[1], found[2] or "main")
        if hub.write_token and self.headers.get("Authorization") != f"Bearer {hub.write_token}":
            return self.send(401, {"error": "Invalid credentials"})
        if path == "/api/repos/create":
            return self._create(json.loads(self.body))
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            files = json.loads(self.body)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            return self.send(200, {"files": modes})
        if re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(self.body))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return self._commit(found[1])
        return self.send(404, {"error": f"no such address: {path}"})

    def _found(self, repo, revision):
        if repo not in self.hub.repos:
            self.send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        commit = self.hub.commit(repo, revision)
        if commit is None:
            self.send(404, {"error": f"Invalid rev id: {revision}"}, X_Error_Code="RevisionNotFound")
        return commit

    def _file(self, repo, revision, name):
        commit = self._found(repo, revision)
        if commit is None:
            return
        sha, files = commit
        common = {} if self.hub.faults.no_commit_header else {"X_Repo_Commit": sha}
        if name not in files:
            self.send(404, X_Error_Code="EntryNotFound", **common)
            return
        content = files[name]
        if not name.endswith(LARGE):
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.send(200, content, ETag=f'"{etag}"', **common)
            return
        digest = hashlib.sha256(content).hexdigest()
        self.hub.blobs[digest] = content
        linked = {"X_Linked_Size": len(content), "X_Linked_Etag": f'"{digest}"'}
        self.send(302, Location=f"{self.hub.cdn}/{digest}?signature=once", **linked, **common)

    def _info(self, repo, revision):
        commit = self._found(repo, revision)
        if commit is not None:
            self.send(200, {"id": repo, "sha": commit[0], "siblings": [{"rfilename": f} for f in commit[1]]})

    def _create(self, wanted):
        owner = wanted.get("organization") or "me"
        repo = f"{owner}/{wanted['name']}"
        url = {"url": f"{self.hub.endpoint}/{repo}"}
        if repo in self.hub.repos:
            return self.send(409, {"error": "You already created this model repo", **url})
        self.hub.repos[repo] = []
        self.hub.created.append(wanted)
        return self.send(200, url)

    def _batch(self, wanted):
        objects = []
        for entry in wanted["objects"]:
            actions = {} if entry["oid"] in self.hub.blobs else {"upload": {"href": f"{self.hub.cdn}/{entry['oid']}"}}
            objects.append({**entry, **({"actions": actions} if actions else {})})
        self.send(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repo):
        files = {}
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        sha = self.hub.add(repo, files)
        self.send(200, {"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{sha}", "commitOid": sha})


class _StoreHandler(_Handler):
    def answer(self):
        faults, digest = self.hub.faults, self.path.strip("/")
        if self.command == "PUT":
            ok = hashlib.sha256(self.body).hexdigest() == digest
            if ok:
                self.hub.blobs[digest] = self.body
            return self.send(200 if ok else 400)
        if faults.store_status:
            return self.send(faults.store_status.pop(0))
        content = self.hub.blobs[digest]
        if faults.flipped:
            content = content[:-1] + bytes([content[-1] ^ 0xFF])
        if faults.end_after is not None:
            content = content[: faults.end_after]
        start, status, extra = 0, 200, {}
        if (asked := self.headers.get("Range")) and not faults.no_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                return self.send(416, Content_Range=f"bytes */{len(content)}")
            status, extra = 206, {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        part = content[start:]
        if faults.cut_after:
            return self.send_cut(part[: faults.cut_after.pop(0)], len(part), status, **extra)
        return self.send(status, part, **extra)
