"""A real headless browser, by the W3C WebDriver protocol over plain HTTP: clicks and keys are those of a user."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's own key of a reference to an element
KEYS = {"space": " ", "left": "\ue012", "right": "\ue014", "home": "\ue011", "end": "\ue010", "tab": "\ue004"}
KEYS |= {"page up": "\ue00e", "page down": "\ue00f"}
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--window-size=1280,1000"),
)


class Browser:
    """One open window."""

    def __init__(self, port: int, session: str):
        self.base = f"http://127.0.0.1:{port}/session/{session}"

    def call(self, method: str, path: str, **body):
        return request(method, self.base + path, body if method == "POST" else None)

    def open(self, url: str) -> None:
        self.call("POST", "/url", url=url)

    def run(self, script: str, *arguments):
        """The value that a function body returns in the page."""
        return self.call("POST", "/execute/sync", script=script, args=list(arguments))

    def click(self, selector: str) -> None:
        found = self.call("POST", "/element", using="css selector", value=selector)
        self.call("POST", f"/element/{found[ELEMENT]}/click")

    def press(self, *keys: str) -> None:
        moves = [{"type": kind, "value": KEYS[key]} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": moves}])

    def errors(self) -> list[str]:
        """What the page has written to the console as an error or a warning, an uncaught exception too."""
        entries = self.call("POST", "/se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def wait(self, script: str, seconds: float = 20.0) -> None:
        """Wait until a function body returns something true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def screenshot(self) -> bytes:
        return base64.b64decode(self.call("GET", "/screenshot"))


def request(method: str, url: str, body: object = None):
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    try:
        with opener.open(call, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(json.load(error)["value"]["message"]) from None


@contextmanager
def open_browser(profile):
    """A `Browser` with a new profile; skips the test where there is none that starts."""
    driver, program = shutil.which("chromedriver"), next(filter(None, map(shutil.which, PROGRAMS)), None)
    if not driver or not program:
        pytest.skip("no headless browser: expected chromium and chromedriver on the PATH")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    session = None
    try:
        _wait_until_ready(port)
        options = {"binary": program, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            made = request("POST", f"http://127.0.0.1:{port}/session", {"capabilities": {"alwaysMatch": wanted}})
        except (RuntimeError, OSError) as error:  # another version than its driver's, a library missing
            pytest.skip(f"no headless browser: {program} does not start: {str(error).splitlines()[0]}")
        session = Browser(port, made["sessionId"])
        yield session
    finally:
        if session is not None:
            session.call("DELETE", "")
        process.terminate()
        process.wait(timeout=30)


def _wait_until_ready(port: int, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if request("GET", f"http://127.0.0.1:{port}/status")["ready"]:
                return
        except OSError:  # not listening yet
            pass
        if time.monotonic() > end:
            pytest.skip("no headless browser: chromedriver does not answer")
        time.sleep(0.05)
