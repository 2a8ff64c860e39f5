"""A local HTTP server of a few bytes that can hang up in the middle."""

import functools
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tascnet.data.download import RemoteFile


class Site:
    """What is served, how, and which ranges were asked for.

    Attributes:
        files: content by name.
        cut: bytes after which the connection is lost; None: never.
        ranges: whether the server goes on from a byte that is asked for.
        asked: the name and the header `Range` of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []
        self.port = 0

    def put(self, name: str, content: bytes, algorithm: str = "md5") -> RemoteFile:
        """Serve `content` under a name."""
        self.files[name] = content
        digest = hashlib.new(algorithm, content).hexdigest()
        return RemoteFile(url=f"http://127.0.0.1:{self.port}/{name}", digest=f"{algorithm}:{digest}")


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, site, *arguments):
        self.site = site
        super().__init__(*arguments)

    def do_GET(self):
        name, asked = self.path.strip("/"), self.headers.get("Range")
        self.site.asked.append((name, asked))
        if name not in self.site.files:
            self.send_error(404)
            return
        content = self.site.files[name]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.site.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if self.site.cut is None else min(len(content), start + self.site.cut)
        self.wfile.write(content[start:end])

    def log_message(self, *_):
        pass


@contextmanager
def serve() -> Iterator[Site]:
    """A site on a free port of this machine."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, site))
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
