"""A peer for the tests of the benchmark: exact by default; its options make it wrong, slow, or die."""

from __future__ import annotations

import os
import time

from benchmarks.qp import reference

PACKAGES = ("numpy",)


class FakePeer:
    def __init__(self, task):
        self.task, self.how = task, task.options.get("how", "")
        self.calls = 0

    def forward(self):
        self.calls += 1
        print("a peer that talks on stdout")  # noqa: T201 - it must not be taken for an answer
        if self.how == "dies":
            os._exit(3)
        if self.how == "hangs":
            time.sleep(600)
        if self.how == "raises":
            raise ArithmeticError("no pivot")

    def forward_backward(self):
        self.calls += 1

    def results(self):
        exact = reference.solve({**self.task.data, "v": self.task.v})
        gradients = {f"d{name}": value for name, value in exact.gradients.items() if name in self.task.wanted}
        found = {**exact.solution, **gradients}
        if self.how == "wrong":
            found["x"] = found["x"] + 1.0
        return found


def prepare(task):
    return FakePeer(task)
