"""What a side is, is asked of its record: nothing outside `sides/` asks its name, and a new side is one more record."""

from __future__ import annotations

import ast
import dataclasses
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eet_demo.declared import Limits
from eet_demo.errors import RequestError
from eet_demo.race.inputs import RaceModel, check_settings
from eet_demo.records import Hardware, RaceSettings, as_json
from eet_demo.results.trace import load_trace
from eet_demo.sides.build import build_side, check_side, side_bytes
from eet_demo.sides.kinds import KINDS, SideKind
from eet_demo.sides.names import parse_side
from eet_demo.sides.pairing import compared_pair, shown
from eet_demo.sides.side import Side, SideOptions
from eet_demo.ui.handlers import Handlers
from eet_demo.ui.offer import BASELINES, ModelChoice, Offer
from eet_demo.ui.precision import precision_words
from eet_demo.ui.recording import recorded_result
from eet_demo.ui.runs import Runs
from eet_demo.worker.pool import same_worker
from tests.unit.test_architecture import PACKAGE, module_name, modules

FIXTURES = Path(__file__).parents[1] / "fixtures"
OPTIONS = SideOptions("dummy", "", "cpu", "float32", "dense", 2, 1, 100)


def asked_names(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of every side's name that a module compares with, begins a text with, or keeps a table by."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        asked: Sequence[ast.expr] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = node.args if node.func.attr in ("startswith", "removeprefix", "get") else []
        elif isinstance(node, ast.Dict):
            asked = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        for part in asked:
            for inner in ast.walk(part):
                if isinstance(inner, ast.Constant) and inner.value in KINDS:
                    yield inner.lineno, str(inner.value)


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_sides_name_is_asked_in_its_own_room_alone(path: Path) -> None:
    if not path.is_relative_to(PACKAGE / "sides"):
        assert not list(asked_names(path))


def test_asking_a_name_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "if side == 'stock': pass\nif 'engine' in sides: pass\nif side in ('stock-eager', 'x'): pass\n"
        "side.startswith('engine')\nWORDS = {'stock': 1}\nsides = ('stock', 'engine')\n"
    )
    assert sorted(asked_names(module)) == [(1, "stock"), (2, "engine"), (3, "stock-eager"), (4, "engine"), (5, "stock")]


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_record_names_what_there_is(kind: SideKind) -> None:
    side = pkgutil.resolve_name(kind.side)
    for method in (name for name in vars(Side) if not name.startswith("_")):
        assert callable(getattr(side, method)), method
    for function in filter(None, (kind.bytes_needed, kind.check)):
        assert callable(pkgutil.resolve_name(function))
    for name in filter(None, (kind.side, kind.bytes_needed, kind.check)):
        assert name.startswith("eet_demo.sides."), "what a record names is not seen by the walk over imports"


DUMMY = SideKind(
    "dummy",
    "Dummy side",
    side=f"{__name__}:DummySide",
    bytes_needed=f"{__name__}:dummy_bytes",
    check=f"{__name__}:check_dummy",
    hue="dummy",
    allocates="run",
    silence="it says nothing",
    dense=True,
    random="dummy",
)


class DummySide:
    def __init__(self, options: SideOptions) -> None:
        self.options = options


def dummy_bytes(options: SideOptions) -> int:
    return 7 * options.max_batch


def check_dummy(side: Any) -> None:
    if set(side.options) - {"colour"}:
        raise RequestError(f"{side.text} has no such option")


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> SideKind:
    monkeypatch.setitem(KINDS, "dummy", DUMMY)
    return DUMMY


def test_new_side_is_one_more_record(dummy: SideKind) -> None:
    assert isinstance(build_side(OPTIONS), DummySide)
    assert side_bytes(dataclasses.replace(OPTIONS, max_batch=3)) == 21
    assert parse_side("dummy:colour=red").kind is dummy
    check_settings(RaceSettings("any", sides=("dummy", "dummy:colour=red")), Limits())
    with pytest.raises(RequestError, match="dummy:size=1 has no such option"):
        check_settings(RaceSettings("any", sides=("dummy:size=1", "engine")), Limits())
    with pytest.raises(RequestError, match="dummy, dummy:OPTION=VALUE"):
        parse_side("unknown")


def test_new_sides_record_decides(dummy: SideKind) -> None:
    assert same_worker(OPTIONS, dataclasses.replace(OPTIONS, max_context=200)), "it allocates by the run"
    assert compared_pair(["engine", "dummy", "stock"]) == (2, 0)
    assert compared_pair(["dummy", "engine:graph=off"]) == (0, 1)
    assert compared_pair(["dummy", "dummy:colour=red"]) == (1, 0)
    (found,) = shown(["dummy:colour=red"])
    assert (found.title, found.hue, found.dense, found.silence) == (
        "Dummy side (colour=red)", "dummy", True, "it says nothing",
    )  # fmt: skip
    model = RaceModel(Path("x"), None, (), 100, 100, random_weights=True)
    assert not model.same_weights("dummy", "stock")
    assert model.same_weights("dummy", "dummy:colour=red")
    settings = {"device": "cpu", "dtype": "float32", "weights": "dense", "model": "any"}
    assert precision_words(settings | {"sides": ["dummy", "stock"]}) == ""
    assert precision_words(settings | {"sides": ["dummy", "engine"]})
    assert "dummy" not in BASELINES


def test_options_of_a_side_are_refused_before_anything_is_built() -> None:
    for name, words in (
        ("engine:threads=64", "threads is no option of a side"),
        ("engine:colour=red", "no option 'colour'"),
        ("stock:debug=on", "stock takes no options"),
        ("scripted:tempo=3", "unknown option 'tempo'"),
        ("fast", "unknown side 'fast'; there are: stock, stock-eager, stock-static, engine, engine:OPTION=VALUE"),
    ):
        with pytest.raises(RequestError, match=words):
            check_side(name)


def test_page_is_told_what_its_lanes_are_before_during_and_after_a_race() -> None:
    """The script knows no side by its name: every value that makes lanes says what they are."""
    model = ModelChoice("m", "M", 64, "")
    offer = Offer(lambda: (model,), {}, Hardware("CPU", 1, 1), {})
    wanted = as_json(shown(["stock", "engine"]))
    assert offer.as_idle()["idle"]["kinds"] == offer.planned(as_json(offer.default_settings))["kinds"] == wanted
    settings = RaceSettings("m", sides=("stock", "engine"))
    handlers = Handlers(Runs(), lambda settings: None, lambda settings: pytest.fail("no race may begin"))
    _, payload = handlers.press("session", lambda: settings)
    assert payload["updates"][0] == {"kind": "queued", "kinds": wanted}
    trace = load_trace(FIXTURES / "sample.trace.json")
    assert recorded_result(trace)["kinds"] == as_json(shown([side["name"] for side in trace["sides"]]))


def test_lanes_look_like_their_sides() -> None:
    found = shown(["stock-static", "engine:graph=off,pdl=off", "scripted:rate=3", "scripted"])
    assert [each.title for each in found] == [
        "Stock generate, static cache", "Engine (graph=off,pdl=off)", "Scripted side", "Scripted side",
    ]  # fmt: skip
    assert [each.hue for each in found] == ["stock", "engine", "stock", "engine"]
    assert [each.dense for each in found] == [True, False, False, False]
    assert [bool(each.silence) for each in found] == [True, False, False, False]
