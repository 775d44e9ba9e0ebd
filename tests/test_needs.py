"""The rule of tests/conftest.py that turns missing needs into skips, and into failures where CI says they are musts."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py").read_text().replace('pytest_plugins = ["pytester"]', "")
TESTS = """
import pytest

@pytest.mark.needs("unicorn")
def test_rides_the_unicorn():
    pass
"""


def run(pytester: pytest.Pytester, probe: str, *arguments: str) -> dict[str, int]:
    pytester.makeconftest(CONFTEST + f'\nNEEDS["unicorn"] = lambda: {probe!r}\n')
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nmarkers = needs(what): as in pyproject.toml\n")
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments).parseoutcomes()


def test_a_met_need_lets_the_test_run(pytester: pytest.Pytester) -> None:
    assert {"passed": 1} == run(pytester, "")


def test_a_missing_need_skips_the_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRWAN_CI_NEEDS", raising=False)
    assert {"skipped": 1} == run(pytester, "none seen")


@pytest.mark.parametrize("listed", ["all", "netns, unicorn"])
def test_a_missing_need_that_ci_lists_fails_the_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    monkeypatch.setenv("SRWAN_CI_NEEDS", listed)
    assert {"errors": 1} == run(pytester, "none seen")


def test_require_needs_fails_the_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRWAN_CI_NEEDS", raising=False)
    assert {"errors": 1} == run(pytester, "none seen", "--require-needs")


def test_another_need_in_the_list_still_skips(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRWAN_CI_NEEDS", "netns")
    assert {"skipped": 1} == run(pytester, "none seen")
