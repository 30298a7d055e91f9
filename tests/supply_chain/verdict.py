"""What is judged of a list of components and of an audit; the tools that make both stay outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.utils import canonicalize_name


@dataclass(frozen=True, slots=True)
class Audit:
    """An audit's outcome: known vulnerabilities by package, and the packages nothing was learned of."""

    audited: int
    not_audited: tuple[str, ...]
    found: tuple[tuple[str, str], ...]
    """Package and the vulnerability's id, those that are allowed left out."""

    @property
    def is_void(self) -> bool:
        """Whether no advisory was asked for: then nothing is known, which is not a clean audit."""
        return self.audited == 0


def judge_audit(report: Mapping[str, Any], allowed: Mapping[str, str]) -> Audit:
    """Return what pip-audit's JSON says; a package that it passed over counts as not audited."""
    audited, skipped, found = 0, [], []
    for package in report["dependencies"]:
        if "vulns" not in package:
            skipped.append(package["name"])
            continue
        audited += 1
        for vulnerability in package["vulns"]:
            names = {vulnerability["id"], *vulnerability.get("aliases", ())}
            if not names & allowed.keys():
                found.append((f"{package['name']} {package['version']}", vulnerability["id"]))
    return Audit(audited, tuple(skipped), tuple(found))


def state_licences(components: Sequence[dict[str, Any]], stated: Mapping[str, str]) -> None:
    """Put the licences that are stated by hand on the components that have none."""
    for component in components:
        name = canonicalize_name(component["name"])
        if not component.get("licenses") and name in stated:
            component["licenses"] = [{"license": {"name": stated[name]}}]


def sbom_faults(components: Sequence[Mapping[str, Any]], installed: Mapping[str, str]) -> list[str]:
    """Return which installed distributions, by name and version, are not listed or have no licence."""
    listed = {canonicalize_name(each["name"]): each for each in components}
    faults = []
    for name, version in sorted(installed.items()):
        component = listed.get(canonicalize_name(name))
        if component is None or component.get("version") != version:
            faults.append(f"{name} {version} is not listed")
        elif not component.get("licenses"):
            faults.append(f"{name} {version} has no licence: state one, with `[licences]`")
    return faults
