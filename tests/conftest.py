"""Fixtures shared by all tests, and the rule that nothing is skipped in CI."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

import harness  # noqa: F401 - before any test imports ONNX Runtime, whose telemetry it switches off

pytest_plugins = ["tests.fixtures_ssh", "tests.fixtures_emulation"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped; in CI that is a failure: {report.longrepr}"
    return report
