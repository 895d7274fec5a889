"""`python app.py`: on its port in time, without torch, racing the real model; and what keeps it from starting."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect

from eet_demo.errors import PortInUseError
from eet_demo.machine.doctor import Check, CheckId
from eet_demo.records import Hardware
from eet_demo.ui.launch import require_free_port
from eet_demo.ui.offer import ModelChoice, Notice, Offer, notice_of
from tests.app.screen import OpenPage, draw_end, lane, press_race, set_slider, wait_end

ROOT = Path(__file__).parents[2]
ANSWERS_CPU_S = 15.0
"""Seconds of processor time until it answers: other work on the machine does not count."""

WATCHDOG_S = 600.0
"""What takes longer hangs: loading torch and compiling the engine take minutes on a machine that does much else."""


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A port that something listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with listening() as port:
        return port


def test_taken_port_is_one_clear_line() -> None:
    with listening() as port:
        with pytest.raises(PortInUseError, match=f"Port {port}.*choose another: --port {port + 1}"):
            require_free_port("127.0.0.1", port)
        run = subprocess.run(
            [sys.executable, "app.py", "--port", str(port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=WATCHDOG_S,
        )
    assert run.returncode == 1
    assert run.stdout == ""
    assert re.fullmatch(rf"error: Port {port} .*--port {port + 1}\n", run.stderr)


def test_free_port_is_accepted() -> None:
    require_free_port("127.0.0.1", free_port())


@pytest.fixture
def app(models_dir: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The real thing in a process of its own; its address and the process."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background job inherits that interrupts are ignored; a visitor's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}/" in line, line
        yield f"http://127.0.0.1:{port}/", psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=WATCHDOG_S)


@pytest.mark.timeout(2 * WATCHDOG_S)
def test_app_answers_in_time_and_races_the_real_model(request: pytest.FixtureRequest, open_page: OpenPage) -> None:
    url, server = request.getfixturevalue("app")
    urllib.request.urlopen(url, timeout=WATCHDOG_S).close()
    spent = server.cpu_times()
    assert spent.user + spent.system < ANSWERS_CPU_S
    page = open_page(url=url)
    set_slider(page, "New tokens", 12)
    press_race(page)
    page.set_default_timeout(1e3 * WATCHDOG_S)
    page.wait_for_function("['done', 'replay', 'failed'].includes(window.__race.state)")
    wait_end(page)
    draw_end(page)
    expect(page.locator(".eet-precision")).to_contain_text("same numbers")
    expect(page.locator(".eet-precision")).to_contain_text("read at 5.6 times fewer bytes")
    expect(page.locator(".eet-strip")).to_contain_text("both sides on the processor (cpu)")
    sides = (("Stock generate", "float32 · dense weights", 513), ("Engine", "float32 · packed weights", 92))
    for side, (name, precision, weights) in enumerate(sides):
        expect(lane(page, side).locator(".eet-config")).to_contain_text(precision)
        expect(lane(page, side).locator("h2")).to_have_text(name)
        expect(lane(page, side).locator(".eet-state")).to_have_text("done")
        expect(lane(page, side).locator(".eet-memory-legend")).to_contain_text(f"weights {weights} MiB")
    expect(page.locator("[data-number='parity']")).to_have_text("12 of 12")
    assert not any("libtorch" in mapped.path for mapped in server.memory_maps())
    page.context.close()
    workers = server.children(recursive=True)
    assert len(workers) == 2
    server.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs([server, *workers], timeout=WATCHDOG_S)
    assert not alive


def test_what_keeps_the_engine_from_running_is_a_notice_with_its_remedy() -> None:
    fine = Check(CheckId.PYTHON, "yes", "3.11")
    absent = Check(CheckId.MODEL, "no", "not here", "fetch it")  # the race fetches it
    compiler = Check(CheckId.COMPILER, "no", "none", "Install one: apt-get install g++")
    assert notice_of([fine, absent]) is None
    notice = notice_of([fine, absent, compiler])
    assert notice == Notice("C++ compiler: none. It is needed for the engine on a CPU.", compiler.remedy)
    model = ModelChoice("tiny", "Tiny", 64, "")
    offer = Offer(lambda: (model,), {}, Hardware("CPU", 1, 1), {}, notice=notice)
    assert offer.as_idle()["idle"]["notice"]["remedy"] == compiler.remedy
