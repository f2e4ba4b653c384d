"""A plugin of pytest: where CI is set, a test that is skipped for a reason that is not on a list fails the run.

The process that collects the reports judges them, so that it works with pytest-xdist too.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("allowed_skips.txt")


def allowed(text: str) -> set[str]:
    """The reasons in a list: a line each, without comments and empty lines."""
    return {line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")}


def unexpected(config: pytest.Config) -> list[str]:
    """`place: reason` of the skips that no line of the list allows; none where CI is not set."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None or hasattr(config, "workerinput"):
        return []
    path = Path(os.environ.get("ALLOWED_SKIPS", LIST))
    known, found = allowed(path.read_text()), []
    for report in reporter.stats.get("skipped", []):
        where, line, text = report.longrepr if isinstance(report.longrepr, tuple) else (report.nodeid, 0, "")
        reason = text.removeprefix("Skipped: ")
        if reason not in known:
            found.append(f"{where}:{line}: {reason}")
    return sorted(set(found))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run that was fine but for its skips."""
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and unexpected(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which."""
    found = unexpected(config)
    if found:
        terminalreporter.section("skips that are not allowed", red=True)
        for line in found:
            terminalreporter.line(line)
        terminalreporter.line(f"Install what is missing, or add the reason to {LIST.name}.")
