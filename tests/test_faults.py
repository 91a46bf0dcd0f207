"""The driver of faults at a tenth of its cases: nothing is lost. Lesson 15."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SHARE = 0.1


@pytest.mark.slow
def test_no_fault_loses_anything():
    """As a command of its own: the flags and the digits of these tests are not for its children."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("faults.py"), "--share", str(SHARE)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    print(done.stdout[-4000:])  # pytest shows it when a case is lost
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    cases, survived, lost, left_out = map(int, re.findall(r"\d+", done.stdout.splitlines()[-1]))
    assert cases == survived + left_out and lost == 0 and survived >= 265
