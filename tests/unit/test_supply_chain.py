"""An audit that learned nothing is not a clean one, and no component goes unlisted or unlicensed."""

from typing import Any

from tests.supply_chain.verdict import judge_audit, sbom_faults, state_licences

VULNERABLE = {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"]}]}
CLEAN = {"name": "b", "version": "2", "vulns": []}
SKIPPED = {"name": "c", "skip_reason": "could not be audited"}


def test_a_known_vulnerability_is_found_unless_it_is_allowed_by_any_of_its_names() -> None:
    report = {"dependencies": [VULNERABLE, CLEAN]}
    assert (("a 1", "PYSEC-1"),) == judge_audit(report, {}).found
    for name in ("PYSEC-1", "CVE-1"):
        assert () == judge_audit(report, {name: "not reachable"}).found
    assert (("a 1", "PYSEC-1"),) == judge_audit(report, {"CVE-2": "another"}).found


def test_what_was_passed_over_is_not_audited() -> None:
    partly, void = (judge_audit({"dependencies": each}, {}) for each in ([CLEAN, SKIPPED], [SKIPPED]))
    assert (1, ("c",), False) == (partly.audited, partly.not_audited, partly.is_void)
    assert void.is_void


def test_every_distribution_is_listed_with_a_licence() -> None:
    licence = [{"license": {"id": "MIT"}}]
    components: list[dict[str, Any]] = [
        {"name": "A_a", "version": "1", "licenses": licence},
        {"name": "b", "version": "1", "licenses": licence},
        {"name": "c", "version": "1"},
        {"name": "d", "version": "1"},
    ]
    state_licences(components, {"d": "MIT", "b": "Other"})

    faults = sbom_faults(components, {"a-a": "1", "b": "2", "c": "1", "d": "1", "e": "1"})

    assert [
        "b 2 is not listed",
        "c 1 has no licence: state one, with `[licences]`",
        "e 1 is not listed",
    ] == faults
    assert licence == components[1]["licenses"]
