import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from loadgen.bench import environments
from loadgen.bench.contender import ContenderError
from loadgen.bench.environments import install, interpreter


def create(directory: Path, *, with_pip: bool) -> None:
    """Make of an environment what the bench looks at."""
    assert with_pip
    (directory / "lib" / f"python3.{sys.version_info.minor}" / "site-packages").mkdir(parents=True)


def test_without_requirements_a_contender_runs_where_the_bench_runs() -> None:
    assert sys.executable == interpreter(())


def test_an_environment_is_made_once_and_laid_over_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[Sequence[str]] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("venv.create", create)
    monkeypatch.setattr(environments, "install", lambda _, requirements: installed.append(requirements))

    python = interpreter(("peer>=1",))

    assert python == interpreter(("peer>=1",))
    assert python != interpreter(("peer>=2",))
    assert [("peer>=1",), ("peer>=2",)] == installed
    (shared,) = Path(python).parents[1].rglob("shared.pth")
    assert str(Path(pytest.__file__).parents[1]) in shared.read_text("utf-8").splitlines()


def test_what_could_not_be_installed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def refuse(python: str, requirements: Sequence[str]) -> None:
        tries.append(python)
        raise ContenderError(f"{requirements} cannot be installed")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("venv.create", create)
    monkeypatch.setattr(environments, "install", refuse)

    for _ in range(2):
        with pytest.raises(ContenderError):
            interpreter(("peer>=1",))
    assert 2 == len(tries)


@pytest.mark.slow
def test_pip_says_why_it_does_not() -> None:
    with pytest.raises(ContenderError, match=r"^/no/such/package cannot be installed: ERROR: "):
        install(sys.executable, ("/no/such/package",))
