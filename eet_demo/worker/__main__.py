"""One side in a process of its own: `python -m eet_demo.worker`."""

from __future__ import annotations

from eet_demo.worker.process import main

main()
