"""What all end-to-end tests share: where modules are, logs of a stack that was up when a test failed, and an orderly end.

SPDX-License-Identifier: Apache-2.0
"""
import os
import signal
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in (HERE, os.path.dirname(HERE), os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools")):
    if folder not in sys.path:
        sys.path.insert(0, folder)

import rig  # noqa: E402


def pytest_configure(config):
    # A stage that is ended at its time limit gets SIGTERM: the fixtures must still stop their stacks.
    def on_term(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut that short
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, on_term)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed and call.when in ("setup", "call"):
        for stack in rig.UP:
            report.sections.append(("logs of %s" % stack.state, stack.logs()))
