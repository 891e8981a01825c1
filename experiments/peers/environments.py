"""Environments of the peers: one each, under build/peers, all with the torch that dsdm has.

What is installed in each is in requirements/PEER.txt.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements"
ENVIRONMENTS = HERE.parents[1] / "build" / "peers"
UNUSED = ("torchvision", "torchaudio")
"""Required by some peers and imported by none; their usual builds load only with CUDA's torch, and
transformers, which looks for them, then fails."""


class NotInstalledError(Exception):
    """A peer's environment could not be made; the message says why."""


def installed_python(peer: str) -> Path | None:
    """The interpreter of the peer's environment, where it is there."""
    folder = ENVIRONMENTS / peer
    return folder / "bin" / "python" if (folder / ".installed").exists() else None


def make_environment(peer: str) -> Path:
    """The interpreter of the peer's environment, which is made where it is missing.

    Raises:
        NotInstalledError: pip refused.
    """
    python = installed_python(peer)
    if python is not None:
        return python
    folder = ENVIRONMENTS / peer
    print(f"installing {peer} into {folder} (minutes, once)", flush=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-qq", "install"]
    _run([*pip, "--no-compile", "--requirement", str(REQUIREMENTS / f"{peer}.txt")])
    _run([*pip[:-1], "uninstall", "--yes", *UNUSED])
    (folder / ".installed").touch()
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise NotInstalledError(lines[-1] if lines else f"exit code {done.returncode}")
