"""Devices as parameters of tests. The simulator compiles every kernel instance first: minutes, on an empty cache."""

from __future__ import annotations

import pytest

SIM = pytest.param("sim", marks=pytest.mark.slow)
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
