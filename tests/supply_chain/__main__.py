"""List what is installed beside the service, with licences, and look for known vulnerabilities.

`python -m tests.supply_chain dist` writes `sbom.json` (CycloneDX) and `audit.json` there. Needs the
extra `supply-chain`. Exit code 1: a component is missing or has no licence, or a vulnerability is known
that `stated.toml` does not allow. Where no advisory can be reached the audit says NOT AUDITED and fails
nothing: that is the network's fault, and never looks like a clean audit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.supply_chain.verdict import Audit, judge_audit, sbom_faults, state_licences

OWN = "stream-infer"
AUDIT_SECONDS = 180
_ROOT = Path(__file__).parents[2]


def main(folder: Path) -> int:
    """Write both files and say what is wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    stated = tomllib.loads((Path(__file__).parent / "stated.toml").read_text(encoding="utf-8"))
    installed = {d.name: d.version for d in distributions() if d.name != OWN}
    faults = write_sbom(folder / "sbom.json", installed, stated["licences"])
    audit = write_audit(folder / "audit.json", installed, stated["vulnerabilities"])
    faults += [f"{package} has {identity}" for package, identity in audit.found]
    lines = [*_audit_lines(audit), *faults, f"{len(installed)} components, {len(faults)} fault(s)"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if faults else 0


def write_sbom(path: Path, installed: dict[str, str], licences: dict[str, str]) -> list[str]:
    """Write the list of components, and return what is wrong with it."""
    command = ["cyclonedx_py", "environment", "--pyproject", str(_ROOT / "pyproject.toml"), "--of", "JSON"]
    subprocess.run([sys.executable, "-m", *command, "-o", str(path), sys.executable], check=True)  # noqa: S603 - our own
    bom = json.loads(path.read_text(encoding="utf-8"))
    state_licences(bom["components"], licences)
    path.write_text(json.dumps(bom, indent=1), encoding="utf-8")
    return sbom_faults(bom["components"], installed)


def write_audit(path: Path, installed: dict[str, str], allowed: dict[str, str]) -> Audit:
    """Write what is known of the components' vulnerabilities."""
    report = _ask(installed) or {"dependencies": [{"name": name} for name in installed]}
    audit = judge_audit(report, allowed)
    path.write_text(json.dumps(asdict(audit), indent=1), encoding="utf-8")
    return audit


def _ask(installed: dict[str, str]) -> dict[str, Any] | None:
    """Return pip-audit's report, or None where it could not make one in time."""
    with TemporaryDirectory() as place:
        requirements = Path(place) / "requirements.txt"
        requirements.write_text("".join(f"{n}=={v}\n" for n, v in installed.items()), encoding="utf-8")
        command = ["pip_audit", "--no-deps", "--disable-pip", "-r", str(requirements), "-f", "json"]
        command = [sys.executable, "-m", *command, "--progress-spinner", "off"]
        try:
            ended = subprocess.run(command, check=False, capture_output=True, timeout=AUDIT_SECONDS)  # noqa: S603 - our own
            report: dict[str, Any] = json.loads(ended.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            return None
    return report


def _audit_lines(audit: Audit) -> list[str]:
    if audit.is_void:
        return ["!!! NOT AUDITED: no advisory could be reached, so nothing is known of vulnerabilities !!!"]
    lines = [f"audited: {audit.audited} components"]
    return [*lines, f"!!! NOT AUDITED: {', '.join(audit.not_audited)} !!!"] if audit.not_audited else lines


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
