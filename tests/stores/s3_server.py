"""An S3 server on this machine, behind a proxy that throttles and drops connections when told."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
PASSED_ON = ("GET", "PUT", "POST", "HEAD", "DELETE")


class Proxy:
    """Passes requests on to a server, but for those that a fault is planned for."""

    def __init__(self, host: str, port: int) -> None:
        self.faults: list[tuple[str, str, str]] = []
        """Method, part of the path, and `throttle`, `drop` or `refuse`; each strikes once."""
        self.struck: list[str] = []
        self._target = (host, port)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def plan(self, method: str, path: str, fault: str, times: int = 1) -> None:
        self.faults += [(method, path, fault)] * times

    def take(self, method: str, path: str) -> str | None:
        for planned in self.faults:
            if planned[0] == method and planned[1] in path:
                self.faults.remove(planned)
                self.struck.append(planned[2])
                return planned[2]
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def pass_on(self) -> None:
                fault = proxy.take(self.command, self.path)
                length = int(self.headers.get("Content-Length") or 0)
                if fault == "drop" and self.command == "PUT":
                    self.rfile.read(length // 2)
                    self.close_connection = True
                    return
                body = self.rfile.read(length)
                if fault in ("throttle", "refuse"):
                    status = 503 if fault == "throttle" else 403
                    self.answer(status, {"Content-Type": "application/xml"}, SLOW_DOWN, 0)
                    return
                upstream = http.client.HTTPConnection(*proxy._target, timeout=30)
                upstream.request(self.command, self.path, body, dict(self.headers))
                reply = upstream.getresponse()
                content = reply.read()
                upstream.close()
                cut = len(content) // 2 if fault == "drop" else 0
                self.answer(reply.status, dict(reply.getheaders()), content, cut)

            def answer(self, status: int, headers: dict[str, str], body: bytes, cut: int) -> None:
                self.send_response_only(status)
                dropped = ("transfer-encoding", "connection", "content-length")
                for name, value in headers.items():
                    if name.lower() not in dropped:
                        self.send_header(name, value)
                length = headers.get("Content-Length", str(len(body)))
                self.send_header(
                    "Content-Length", length if self.command == "HEAD" else str(len(body))
                )
                self.end_headers()
                self.wfile.write(body[: len(body) - cut])
                self.close_connection = self.close_connection or cut > 0

        for method in PASSED_ON:
            setattr(Handler, f"do_{method}", Handler.pass_on)
        return Handler
