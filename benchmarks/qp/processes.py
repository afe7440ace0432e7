"""The driver's end of the pipe to a peer: commands with a deadline, a process that may crash or hang."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 120.0  # [s]; imports of JAX or cvxpy from a cold disk


class PeerError(Exception):
    """The peer raised, died or hung; the message says which."""


class PeerProcess:
    """One peer in a process of its own, started at the first command and again after it died.

    Args:
        python: interpreter of its environment.
        module: adapter, importable from the root of the repository.
        threads: cores and threads that it may use.
    """

    def __init__(self, python: Path, module: str, threads: int = 1) -> None:
        self.python, self.module, self.threads = python, module, threads
        self.versions: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process if it does not run.

        Raises:
            PeerError: it cannot be imported.
        """
        if self._process is not None:
            return
        command = [str(self.python), "-m", "benchmarks.peers.layers.worker", self.module, str(self.threads)]
        self._unread = b""
        try:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment(self.threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            raise PeerError(f"{self.python}: {error.strerror}") from error
        try:
            self.versions = self._receive(START_TIMEOUT)
        except PeerError:
            self.stop()
            raise

    def ask(self, do: str, timeout: float, **arguments: Any) -> Any:
        """Run a command of `Worker` and return its value.

        Raises:
            PeerError: it raised, died, or did not answer within `timeout` [s]; a process that hangs is killed.
        """
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: reading its answer says how
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        return self._receive(timeout)

    def _receive(self, timeout: float) -> Any:
        line = self._read_line(timeout)
        answer = json.loads(line)
        if not answer["ok"]:
            raise PeerError(answer["value"])
        return answer["value"]

    def _read_line(self, timeout: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    self.stop()
                    raise PeerError(f"no answer within {timeout:.3g} s")
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    code = self._process.wait()
                    self.stop()
                    raise PeerError(f"the process died with exit code {code}")
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def stop(self) -> None:
        """Kill the process, if there is one."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._process = None


def environment(threads: int) -> dict[str, str]:
    """Return the environment variables that hold every library we know to `threads` threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "NPROC")
    xla = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if threads == 1 else ""
    variables = dict.fromkeys(names, str(threads)) | {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | variables
