"""Which peers there are, and the environments that `make bench-peers` builds for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import click

BENCHMARKS = Path(__file__).resolve().parents[1]
ENVIRONMENTS = BENCHMARKS / ".envs"
REQUIREMENTS = BENCHMARKS / "peers" / "requirements"
LAYERS = "benchmarks.peers.layers"


@dataclass(frozen=True)
class Peer:
    """A library, the environment it lives in, and how tables call it."""

    name: str
    environment: str
    title: str

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        if self.environment == "":
            return Path(sys.executable)
        return ENVIRONMENTS / self.environment / "bin" / "python"

    @property
    def module(self) -> str:
        """Its adapter."""
        return f"{LAYERS}.{self.name}"

    @property
    def installed(self) -> bool:
        """Whether its environment was built completely."""
        return self.environment == "" or (ENVIRONMENTS / self.environment / "complete").exists()


OURS = Peer("ours", "", "ours")
PEERS = {
    peer.name: peer
    for peer in (
        OURS,
        Peer("qpth", "qpth", "qpth"),
        Peer("proxsuite", "torch", "proxsuite QPLayer"),
        Peer("cvxpylayers", "torch", "cvxpylayers (diffcp)"),
        Peer("moreau", "torch", "moreau (active set)"),
        Peer("dqp", "dqp", "dQP (DAQP)"),
        Peer("qpax", "jax", "qpax"),
        Peer("daqp", "torch", "DAQP, forward only"),
        Peer("piqp", "torch", "PIQP, forward only"),
    )
}


def build(names: Iterable[str] | None, log: Callable[[str], object]) -> None:
    """Build the environments of `requirements/*.txt`; one that is complete and newer than its file is kept.

    Raises:
        click.ClickException: pip failed.
    """
    for file in sorted(REQUIREMENTS.glob("*.txt")):
        if names is not None and file.stem not in names:
            continue
        folder = ENVIRONMENTS / file.stem
        done = folder / "complete"
        if done.exists() and done.stat().st_mtime >= file.stat().st_mtime:
            log(f"{file.stem}: up to date")
            continue
        log(f"{file.stem}: installing {file}")
        done.unlink(missing_ok=True)
        python, options = str(folder / "bin" / "python"), ["--quiet", "--disable-pip-version-check"]
        make = [sys.executable, "-m", "venv", str(folder)]
        install = [python, "-m", "pip", "install", *options, "-r", str(file)]
        # PIP_CONSTRAINT reaches build environments too, so nothing pulls another torch.
        environment = os.environ | {"PIP_CONSTRAINT": str(file)}
        for command in (make, install):
            if subprocess.run(command, env=environment, check=False).returncode != 0:
                raise click.ClickException(f"{file.stem}: expected to install {file}, found an error of pip (above)")
        done.touch()
