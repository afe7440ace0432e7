"""Call a function in a child process that may crash or hang without taking the benchmark with it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any


class CallFailedError(Exception):
    """The call raised, crashed or hung; the message says which."""


class IsolatedFunction:
    """A function of a module that runs in one long-lived child, replaced whenever it dies or hangs.

    Args:
        function: must be importable by the child.
        timeout: longest time of one call [s].
    """

    def __init__(self, function: Callable[..., Any], timeout: float) -> None:
        self._function = function
        self._timeout = timeout
        self._context = multiprocessing.get_context("spawn")
        self._child: Any = None
        self._pipe: Any = None

    def __enter__(self) -> IsolatedFunction:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def __call__(self, *args: object) -> Any:
        """Call the function in the child.

        Raises:
            CallFailedError: it raised an exception, killed its process, or did not return in time.
        """
        if self._child is None:
            self._start()
        self._pipe.send(args)
        try:
            if not self._pipe.poll(self._timeout):
                self._stop()
                raise CallFailedError(f"no answer within {self._timeout:g} s")
            ok, value = self._pipe.recv()
        except EOFError:
            self._child.join()
            code = self._child.exitcode
            self._stop()
            raise CallFailedError(f"the process died with exit code {code}") from None
        if not ok:
            raise CallFailedError(value)
        return value

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._child = self._context.Process(target=_serve, args=(self._function, theirs), daemon=True)
        self._child.start()
        theirs.close()
        if not self._pipe.poll(120):  # the imports do not count as time of the first call
            self._stop()
            raise CallFailedError("the process did not start within 120 s")
        try:
            self._pipe.recv()
        except EOFError:
            self._stop()
            raise CallFailedError("the process died while it started") from None

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._pipe.close()
        self._child = None


def _serve(function: Callable[..., Any], pipe: Connection) -> None:
    pipe.send("ready")
    while True:
        try:
            args = pipe.recv()
        except EOFError:
            return
        try:
            reply = (True, function(*args))
        except Exception as error:
            reply = (False, f"{type(error).__name__}: {error}")
        pipe.send(reply)
