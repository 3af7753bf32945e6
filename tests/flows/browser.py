"""A real Chromium without a window, driven over the W3C WebDriver protocol with the standard library alone.

Uses `chromium` (or google-chrome) and `chromedriver` of the PATH, or of the environment variables CHROMIUM and
CHROMEDRIVER; tests that want it are skipped, and say so, where there is none.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 100.0  # a busy machine starts a browser slowly
KEYS = {"ArrowRight": "\ue014", "ArrowLeft": "\ue012", "Backspace": "\ue003"}


def find() -> tuple[str, str] | None:
    """(chromium, chromedriver), or None."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "chrome")
    chromium = next((path for name in names if name and (path := shutil.which(name))), None)
    driver = shutil.which(os.environ.get("CHROMEDRIVER", "chromedriver"))
    return (chromium, driver) if chromium and driver else None


class Browser:
    def __init__(self, session: str) -> None:
        self.session = session

    def _ask(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        data = json.dumps(content or {}).encode() if method == "POST" else None
        request = urllib.request.Request(
            self.session + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            return json.loads(reply.read())["value"]

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def js(self, script: str, *arguments: Any) -> Any:
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, key: str) -> None:
        """On whatever has the focus."""
        value = KEYS.get(key, key)
        actions = [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def click(self, selector: str) -> None:
        self.js("document.querySelector(arguments[0]).click()", selector)

    def until(self, condition: str, *arguments: Any) -> Any:
        """Wait until a JavaScript expression is true; return it."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if value := self.js(f"return {condition}", *arguments):
                return value
            time.sleep(0.05)
        raise AssertionError(
            f"still not: {condition}; the page says {self.js('return document.body.innerText')[:800]}"
        )

    def complaints(self) -> list[str]:
        """What the page logged as an error, a refused request included."""
        return [
            entry["message"]
            for entry in self._ask("POST", "/se/log", {"type": "browser"})
            if entry["level"] == "SEVERE"
        ]

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def resize(self, width: int, height: int) -> None:
        self._ask("POST", "/window/rect", {"width": width, "height": height})


@contextmanager
def browsing(programs: tuple[str, str], profile: Path) -> Iterator[Browser]:
    """A browser that ends with the context."""
    chromium, driver = programs
    options = {
        "binary": chromium,
        "args": [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            f"--user-data-dir={profile}",
        ],
    }
    capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    process = subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        port = next(
            found[1] for line in process.stdout if (found := re.search(r"successfully on port (\d+)", line))
        )
        base = Browser(f"http://127.0.0.1:{port}")
        session = base._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        browser = Browser(f"http://127.0.0.1:{port}/session/{session['sessionId']}")
        try:
            yield browser
        finally:
            browser._ask("DELETE", "")
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)
        if process.stdout is not None:
            process.stdout.close()
