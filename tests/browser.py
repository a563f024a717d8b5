"""A headless Chromium, spoken to through a pipe by its DevTools protocol; no library needed."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
WITHOUT = (
    "no Chromium to open the page with: install it (on Debian: apt-get install chromium), or say "
    "in CHROMIUM where it is"
)
KEYS = {"Enter": 13, "Escape": 27, "End": 35, "Home": 36, "Tab": 9}
KEYS |= {f"Arrow{name}": 37 + i for i, name in enumerate(("Left", "Up", "Right", "Down"))}


class Browser:
    """One page in a browser of its own; what it asks of a network or complains of is kept.

    Args:
        profile: an empty folder.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        from_here, to_browser = os.pipe()
        from_browser, to_here = os.pipe()

        def give_pipes() -> None:
            # Commands are read from 3, answers written to 4; neither may be what is moved there.
            high = os.dup(from_here), os.dup(to_here)
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [CHROMIUM, *options],
            close_fds=False,
            pass_fds=(),
            preexec_fn=give_pipes,  # noqa: PLW1509 (it calls the kernel and no more)
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_here)
        os.close(to_here)
        self._in, self._out = os.fdopen(to_browser, "wb"), os.fdopen(from_browser, "rb")
        self._buffer, self._number, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        pages = self._call("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._in.write(json.dumps(message).encode() + b"\0")
        self._in.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self) -> Any:
        while b"\0" not in self._buffer:
            piece = os.read(self._out.fileno(), 1 << 16)
            assert piece, "the browser has gone"
            self._buffer += piece
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(raw)
        match message.get("method"), message.get("params"):
            case "Network.requestWillBeSent", {"request": {"url": url}}:
                self.requests.append(url)
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                self.complaints.append(json.dumps(details))
            case "Runtime.consoleAPICalled", {"type": "error" | "warning"} as details:
                self.complaints.append(json.dumps(details))
            case "Log.entryAdded", {"entry": {"level": "error" | "warning"} as details}:
                self.complaints.append(json.dumps(details))
        return message

    def open(self, path: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Show a file in a window of this size."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        url = path.resolve().as_uri()
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=url)
        while self.get("document.readyState + location.href") != f"complete{url}":
            time.sleep(0.01)
        self.settle()

    def settle(self) -> None:
        """Let the page draw twice."""
        frames = "new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))"
        self._call("Runtime.evaluate", expression=frames, awaitPromise=True)

    def get(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def hover(self, element: str) -> None:
        """Move the mouse onto what a JavaScript expression finds."""
        self._mouse("mouseMoved", element)

    def click(self, element: str) -> None:
        """Click on it."""
        self._mouse("mouseMoved", element)
        self._mouse("mousePressed", element)
        self._mouse("mouseReleased", element)

    def _mouse(self, kind: str, element: str) -> None:
        middle = self.get(
            f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'nearest'}});"
            "const r = e.getBoundingClientRect();"
            "return [r.left + r.width / 2, r.top + r.height / 2]; })()"
        )
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self._call("Input.dispatchMouseEvent", type=kind, x=middle[0], y=middle[1], **button)
        self.settle()

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        self._call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **code)
        self.settle()

    def photograph(self, path: Path, whole: bool = False) -> None:
        """A PNG of what is in sight, or of the whole page."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._out.close()
