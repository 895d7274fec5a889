"""A setting is declared once, and checked in one place: whatever is given, the answer is a value or a clear refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest

from eet_demo.declared import LIMIT_VARIABLE, Limits, Setting, settings_of, shown
from eet_demo.errors import RequestError
from eet_demo.race.inputs import check_settings
from eet_demo.records import RaceSettings

ROOT = Path(__file__).parents[2]
SETTINGS = settings_of(RaceSettings)
GIVEN = RaceSettings("smollm2-135m")


def deep_list() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"context": "64"}, r"context is '64'; it must be a whole number from 1 to 32,768 \(EET_DEMO_MAX_CONTEXT\)"),
        ({"context": 64.5}, "context is 64.5; it must be a whole number"),
        ({"context": True}, "context is True"),
        ({"context": None}, "context is None"),
        ({"context": float("nan")}, "context is nan"),
        ({"context": [64]}, r"context is \[64\]"),
        ({"context": 32_769}, "EET_DEMO_MAX_CONTEXT"),
        ({"batch": 0}, r"batch is 0; it must be a whole number from 1 to 8 \(EET_DEMO_MAX_BATCH\)"),
        ({"batch": 10**9}, "batch is 1000000000"),
        ({"batch": 10**5000}, "batch is a int that cannot be written out"),
        ({"batch": 8, "context": 10_000}, r"8 rows of 10,000 ids are 80,000; .* 65,536 \(EET_DEMO_MAX_PROMPT_IDS\)"),
        ({"new_tokens": 2**70}, "EET_DEMO_MAX_NEW_TOKENS"),
        ({"ragged": 1}, "ragged is 1; it must be true or false"),
        ({"ragged": "no"}, "ragged is 'no'"),
        ({"model": None}, "model is None; it must be text"),
        ({"model": "m" * 1001}, "text of at most 1,000 whole characters"),
        ({"model": deep_list()}, "model is a list that cannot be written out"),
        ({"dtype": {"a": 1}}, "dtype is {'a': 1}"),
        ({"weights": b"dense"}, "weights is b'dense'"),
        ({"prompt": "text:" + "a" * 50_000}, "EET_DEMO_MAX_TEXT_CHARACTERS"),
        ({"prompt": "text:half an emoji \ud83e"}, r"prompt is 'text:half an emoji \\ud83e'; .* whole characters"),
        ({"question": "?" * 50_001}, "EET_DEMO_MAX_TEXT_CHARACTERS"),
        ({"sides": [1]}, r"sides is \[1\]; it must be names of sides"),
        ({"sides": ("stock", 1)}, "sides is"),
        ({"sides": "stock"}, "sides is 'stock'"),
        ({"sides": ()}, "0 sides are given; there can be 1 to 2"),
        ({"sides": ("stock",) * 3}, "3 sides are given"),
        ({"sides": ("\ud83e",)}, "sides is"),
        ({"schedule": "never"}, "schedule is 'never'; it must be one of in_turn, together"),
        ({"schedule": ["in_turn"]}, "schedule is"),
        ({"device": "tpu"}, "device is 'tpu'; it must be one of cpu, cuda, sim, reference"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be 0 or a number from 0.01 to 2.0"),
        ({"temperature": 1e-46}, "0 or a number from 0.01"),
        ({"temperature": 2.5}, "EET_DEMO_MAX_TEMPERATURE"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 10**400}, "temperature is 1000"),
        ({"top_k": 2**31}, "top_k is"),
        ({"top_p": 0}, "top_p is 0; it must be a number above 0 and at most 1"),
        ({"seed": 2**64}, "seed is"),
        ({"threads": 0}, "threads is 0; it must be a whole number from 1 to 4,096, or nothing"),
        ({"free_running": None}, "free_running is None"),
    ],
)
def test_what_no_race_can_have_is_refused_with_what_it_can(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        check_settings(replace(GIVEN, **changed), Limits())
    assert len(str(caught.value)) < 300
    str(caught.value).encode()


def test_every_setting_up_to_its_limit_is_taken() -> None:
    limits = Limits()
    check_settings(GIVEN, limits)
    for name, setting in SETTINGS.items():
        if setting.kind in (int, float):
            largest = setting.largest(limits)
            assert largest is not None, f"{name} has no upper limit"
            value = setting.kind(largest)
            few = {"prompt_ids": 2**31, "batch": 2**31, "context": 2**31} if name in ("batch", "context") else {}
            check_settings(replace(GIVEN, **{name: value}), replace(limits, **few))
    check_settings(replace(GIVEN, threads=None, temperature=0, top_p=1), limits)


def test_the_owner_may_allow_more_or_less() -> None:
    check_settings(replace(GIVEN, batch=100), replace(Limits(), batch=100))
    with pytest.raises(RequestError, match=r"from 1 to 1 \(EET_DEMO_MAX_BATCH\)"):
        check_settings(replace(GIVEN, batch=2), replace(Limits(), batch=1))
    with pytest.raises(RequestError, match=r"from 0\.01 to 100"):
        check_settings(replace(GIVEN, temperature=101), Limits.none())
    check_settings(replace(GIVEN, batch=10**6, context=1000), Limits.none())


def test_defaults_stay_within_what_the_owner_allows() -> None:
    assert SETTINGS["context"].within(Limits()) == 128
    assert SETTINGS["context"].within(replace(Limits(), context=64)) == 64
    assert SETTINGS["temperature"].within(Limits()) == 0
    assert SETTINGS["prompt"].within(Limits()) == ""


def test_whatever_is_given_can_be_said() -> None:
    for value in (deep_list(), 10**5000, "\ud83e", "a" * 10**6, float("nan"), object()):
        assert len(shown(value)) <= 60
        shown(value).encode()


WITH_A_DUMMY = """
import dataclasses, json, sys
from eet_demo import records
from eet_demo.declared import declared

new = dataclasses.field(default=3, metadata=declared("A dummy.", label="Dummy", place="rules", least=1, most=9))
records.RaceSettings = dataclasses.make_dataclass("RaceSettings", [("dummy", int, new)],
    bases=(records.RaceSettings,), frozen=True)

import typer
from typer.testing import CliRunner
from eet_demo.commands.cli import app
from eet_demo.commands.race import register
from eet_demo.declared import Limits
from eet_demo.race.inputs import check_settings
from eet_demo.results.trace import load_schema
from eet_demo.text.prompts import load_documents
from eet_demo.ui.offer import ModelChoice, Offer
from eet_demo.ui.page import build_page

offer = Offer(lambda: (ModelChoice("m", "M", 999, ""),), load_documents(), records.Hardware("CPU", 1, 1), {})
demo = build_page(offer, lambda settings: None, lambda settings: None)
config = demo.get_config_file()
register(app)
help = CliRunner().invoke(app, ["race", "--help"], env={"COLUMNS": "200"}).output
try:
    check_settings(records.RaceSettings("m", dummy=0), Limits())
except Exception as error:
    refusal = str(error)
print(json.dumps({
    "page": [c["props"] for c in config["components"] if c["props"].get("label") == "Dummy"],
    "help": [line for line in help.splitlines() if "--dummy" in line],
    "race": demo.get_api_info()["named_endpoints"]["/race"]["parameters"][-1],
    "schema": load_schema()["properties"]["settings"]["properties"]["dummy"],
    "refusal": refusal,
}))
"""


@pytest.mark.slow
def test_a_new_setting_is_one_entry() -> None:
    """Page, command line, `/race`, trace and check have it by themselves."""
    done = subprocess.run(
        [sys.executable, "-c", WITH_A_DUMMY], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (control,) = found["page"]
    assert (control["value"], control["minimum"]) == (3, 1)
    (option,) = found["help"]
    assert "A dummy." in option
    assert "default: 3" in option
    assert (found["race"]["parameter_name"], found["race"]["parameter_default"]) == ("dummy", 3)
    assert found["schema"] == {"type": "integer", "minimum": 1}
    assert found["refusal"] == "dummy is 0; it must be a whole number from 1 to 9"


def test_readme_has_every_setting_and_every_limit() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [*map(setting_row, SETTINGS.values()), *map(limit_row, fields(Limits))]
    missing = [row for row in rows if row not in readme]
    assert not missing, "README.md lacks these rows:\n" + "\n".join(missing)
    assert readme.count(f"\n| `{LIMIT_VARIABLE}") == len(fields(Limits))
    table = readme.partition("| setting | default |")[2].partition("\n\n")[0]
    assert table.count("\n| `") == len(SETTINGS)


def setting_row(setting: Setting) -> str:
    default = ",".join(setting.default) if setting.kind is tuple else setting.default
    shown_default = "" if default in ("", None) else f"`{default}`"
    possible = "text" if setting.kind is str and not setting.choices else setting.possible()
    where = "" if setting.visitors else " Command line only."
    return f"| `{setting.name}` | {shown_default} | {possible} | {setting.help}{where} |"


def limit_row(limit: Any) -> str:
    assert limit.default is not MISSING
    return f"| `{LIMIT_VARIABLE}{limit.name.upper()}` | {limit.default:,} | {limit.metadata['help']} |"
