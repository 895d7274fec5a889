"""Workers that stay between races: who is used again, who is ended, and at which priority they run."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys

from eet_demo.paths import IMPORT_ROOT
from eet_demo.sides.side import SideOptions
from eet_demo.worker.pool import WorkerPool, same_worker
from tests.real_workers import PATIENCE_S, options, wait_until


def test_pool_uses_a_worker_again_and_ends_what_is_not_wanted() -> None:
    pool = WorkerPool()
    try:
        first = pool.acquire(options("rate=1"))
        twin = pool.acquire(options("rate=1"))
        assert twin is not first, "two equal sides of one race are two workers"
        pool.end(twin)
        first.taken = False
        assert pool.acquire(options("rate=1")) is first
        other = pool.acquire(options("rate=2"))
        assert other is not first
        pool.retain([other.options])
        assert not first.alive
        assert other.alive
        os.kill(other.pid, signal.SIGKILL)
        assert wait_until(lambda: not other.alive)
        assert pool.acquire(other.options) is not other
    finally:
        pool.close()


def test_pool_starts_workers_at_full_priority_from_a_thread_that_is_nice() -> None:
    pool = WorkerPool()
    script = (
        "import os\n"
        "from eet_demo.worker.pool import WorkerPool\n"
        "from tests.real_workers import options\n"
        "pool = WorkerPool(); before = os.getpriority(os.PRIO_PROCESS, 0); os.nice(5)\n"
        "handle = pool.acquire(options()); print(os.getpriority(os.PRIO_PROCESS, handle.pid) - before)\n"
        "pool.close()\n"
    )
    pool.close()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=IMPORT_ROOT, timeout=PATIENCE_S
    )
    assert done.stdout.strip() == "0", done.stderr


def test_stock_worker_serves_any_context_and_an_engine_worker_only_its_own() -> None:
    stock = SideOptions("stock", "", "cpu", "float32", "dense", 2, 1, 100)
    larger = dataclasses.replace(stock, max_context=200, max_batch=4)
    assert same_worker(stock, larger)
    assert not same_worker(stock, dataclasses.replace(larger, dtype="bfloat16"))
    for side in ("engine", "stock-static"):
        assert not same_worker(*(dataclasses.replace(each, side=side) for each in (stock, larger))), side
