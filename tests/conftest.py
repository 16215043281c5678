"""Fixtures shared by all tests, and the rule that nothing is skipped in CI."""

from __future__ import annotations

import os

import pytest

pytest_plugins: list[str] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped; in CI that is a failure: {report.longrepr}"
    return report
