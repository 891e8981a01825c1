"""Chromium without a window, driven over its DevTools pipe; needs no package."""

import base64
import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SECONDS = 60

# Chromium reads commands from descriptor 3 and answers on 4.
_START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab. `problems` and `requests` hold what all pages that it opened did."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        """Console messages, exceptions, violated policies."""
        self._requests: dict[str, str] = {}
        self._number = 0
        self._unread = b""
        self._events: set[str] = set()

    def __enter__(self) -> Self:
        assert CHROMIUM is not None
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._profile = tempfile.mkdtemp(prefix="dsdm-browser-")
        ends = [str(commands), str(answers)]
        options = [*_OPTIONS, f"--user-data-dir={self._profile}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *ends, CHROMIUM, *options],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._session = ""
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=tab, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError, TimeoutError, subprocess.TimeoutExpired):
            self.call("Browser.close")
            self._process.wait(10)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, page: Path, width: int, *, script: bool = True, dark: bool = False) -> None:
        """Opens a file at `width` CSS pixels and waits until it is loaded."""
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._events.discard("Page.loadEventFired")
        self._opened = page.resolve().as_uri()
        self.call("Page.navigate", url=self._opened)
        self._read_until(lambda: "Page.loadEventFired" in self._events)

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for and that no policy blocked, but for the pages opened."""
        return list(self._requests.values())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self, **clip: float) -> bytes:
        """A PNG of the part of the page at x, y of this width and height; all of it by default."""
        part = {"clip": clip | {"scale": 1}} if clip else {}
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, **part)
        return base64.b64decode(answer["data"])

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Chromium's answer to a command of its DevTools protocol."""
        self._number += 1
        number = self._number
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session and not method.startswith(("Browser.", "Target.")):
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []
        self._read_until(lambda: bool(answers), number, answers)
        if "error" in answers[0]:
            raise RuntimeError(f"{method}: {answers[0]['error']}")
        return answers[0].get("result", {})

    def _read_until(
        self, is_done: Any, number: int = 0, answers: list[dict[str, Any]] | None = None
    ) -> None:
        end = time.monotonic() + SECONDS
        while not is_done():
            message = self._read(end)
            if answers is not None and message.get("id") == number:
                answers.append(message)
            elif "method" in message:
                self._note(message["method"], message["params"])

    def _note(self, event: str, parameters: dict[str, Any]) -> None:
        self._events.add(event)
        if event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.problems.append(json.dumps(parameters))
        elif event == "Network.requestWillBeSent":
            address = parameters["request"]["url"]
            # The empty icon stands in the page itself.
            if address != self._opened and not address.startswith("data:,"):
                self._requests[parameters["requestId"]] = address
        elif event == "Network.loadingFailed" and parameters.get("blockedReason") == "csp":
            self._requests.pop(parameters["requestId"], None)

    def _read(self, end: float) -> dict[str, Any]:
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\0" not in self._unread:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TimeoutError("Chromium does not answer.")
                part = os.read(self._answers, 1 << 20)
                if not part:
                    raise OSError("Chromium has ended.")
                self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer
