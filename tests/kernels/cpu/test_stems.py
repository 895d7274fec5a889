"""One stem, four places, on the CPU too: a header, its lowering, its function in the reference, its test."""

from __future__ import annotations

from pathlib import Path

import pytest

from eet_demo.engine.executors.cpu.compiler import SOURCES
from eet_demo.engine.executors.cpu.lowering import Lowering
from eet_demo.engine.executors.cpu.records import ACTIVATIONS, FORMATS, NORMS, STEMS
from eet_demo.engine.executors.reference import kernels as reference

TESTS = Path(__file__).parent
HEADER = ("in: ", "out: ", "items: ")


@pytest.mark.parametrize("stem", STEMS)
def test_stem_has_header_lowering_reference_and_test(stem: str) -> None:
    assert (SOURCES / f"{stem}.h").exists()
    assert hasattr(Lowering, f"_{stem}")
    text = (TESTS / f"test_{stem}.py").read_text()
    assert (
        "eet_demo.engine.sampling import" in text
        if stem == "sample"
        else f"reference.{stem}" in text and hasattr(reference, stem)
    )


@pytest.mark.parametrize("stem", STEMS)
def test_header_opens_with_its_formula_and_shapes(stem: str) -> None:
    head = (SOURCES / f"{stem}.h").read_text().split("#pragma once", 1)[0]
    assert head.startswith(f"// {stem}: ")
    places = [head.find(f"\n// {word}") for word in HEADER]
    assert -1 not in places, f"{stem}.h lacks a line of its header block"
    assert places == sorted(places)


def test_names_match_the_enums() -> None:
    """The order of the names in Python is the order of the enums in C++."""
    text = (SOURCES / "program.h").read_text()
    enums = {"Stem": STEMS, "NormKind": NORMS, "Activation": ACTIVATIONS, "Format": FORMATS}
    for enum, names in enums.items():
        listed = text.split(f"enum {enum} : int32_t {{ ", 1)[1].split(" }", 1)[0].split(", ")
        camel = ["k" + "".join(word.capitalize() for word in name.split("_")) for name in names]
        assert [name.removesuffix("Norm") for name in listed] == camel
