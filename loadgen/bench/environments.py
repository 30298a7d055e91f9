"""Environments for peers whose requirements conflict with ours: theirs laid over the bench's own.

What a peer brings hides what the bench's environment has; the rest, the heavy libraries above all, is
shared. They are kept in the user's cache, by requirements, Python and the environment below.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path

from loadgen.bench.contender import ContenderError

PATIENCE: Final = 900.0
"""Seconds that an installation may take."""
_READY: Final = "ready"


def interpreter(requirements: Sequence[str]) -> str:
    """Return the Python of the environment that holds the requirements, made when it is not there yet.

    Raises:
        ContenderError: they cannot be installed.
    """
    if not requirements:
        return sys.executable
    directory = _place(requirements)
    if not (directory / _READY).exists():
        shutil.rmtree(directory, ignore_errors=True)
        _make(directory, requirements)
        (directory / _READY).touch()
    return _python(directory)


def _place(requirements: Sequence[str]) -> Path:
    parts = [*requirements, sys.version, *_own_packages()]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return user_cache_path("stream-infer-bench") / digest


def _own_packages() -> list[str]:
    """Return the directories that the bench's own packages are imported from."""
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return sorted(paths | {path for path in sys.path if path.endswith("site-packages")})


def _make(directory: Path, requirements: Sequence[str]) -> None:
    venv.create(directory, with_pip=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(directory)})
    shared = "".join(f"{path}\n" for path in _own_packages())
    (Path(packages) / "shared.pth").write_text(shared, encoding="utf-8")
    install(_python(directory), requirements)


def install(python: str, requirements: Sequence[str]) -> None:
    """Install requirements into the environment of a Python.

    Raises:
        ContenderError: pip does not, or not in time.
    """
    wanted = " ".join(requirements)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    try:
        done = subprocess.run(  # noqa: S603 - the command is the bench's own
            command, check=False, timeout=PATIENCE, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired as error:
        raise ContenderError(f"{wanted} took over {PATIENCE:.0f} s to install") from error
    if done.returncode:
        faults = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise ContenderError(f"{wanted} cannot be installed: {(faults or [done.stderr])[-1].strip()[:200]}")


def _python(directory: Path) -> str:
    return str(directory / "bin" / "python")
