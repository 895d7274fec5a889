"""The C++ under AddressSanitizer, UBSan and ThreadSanitizer, on small models through the real lowering and plan.

Under ThreadSanitizer members fall behind on purpose, see test_stress.py.
"""

from __future__ import annotations

import pytest

from tests.kernels.sanitizers import FLAGS, run

MODULE = "tests.kernels.cpu.sanitized"
REPORTS = {"address": "AddressSanitizer: use-after-poison", "thread": "ThreadSanitizer: data race"}


@pytest.mark.parametrize("name", list(FLAGS))
def test_every_op_is_sound(name: str) -> None:
    result = run(name, MODULE, ["all"])
    assert result.returncode == 0, result.stderr[-4000:]
    assert "sound" in result.stdout


@pytest.mark.parametrize("name", list(FLAGS))
def test_the_net_has_no_hole(name: str) -> None:
    """A read past a block, and two steps at once, are reported: the test above can fail."""
    result = run(name, MODULE, ["broken"])
    assert result.returncode != 0
    assert REPORTS[name] in result.stderr
