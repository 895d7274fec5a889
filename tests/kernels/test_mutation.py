"""The mutation runner tells caught from survived from invalid; and a sample of the real faults is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from eet_demo.paths import cache_dir
from tests.kernels.mutation import Mutation, judge, load_mutations, run, sample

EMBED = "kernels/cuda/embed.cu"
SAMPLED = ("embed", "quantised", "random")
BUILD = cache_dir()
"""The suite's own, where the binaries of sound kernels are already."""

TEST = "tests/kernels/test_embed.py::test_embed_single_row"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build")


@pytest.mark.parametrize(
    ("find", "replace", "test", "outcome", "detail"),
    [
        ("token_ids + row", "token_ids + row - 1", TEST, "caught", ""),
        ("token_ids + row", "token_ids + row + 1000000000", TEST, "caught", ""),
        ("const int64_t row = blockIdx.x;", "const int64_t row = blockIdx.x;  // the same", TEST, "survived", TEST),
        ("token_ids + row", "token_ids + oops", TEST, "invalid", "does not compile"),
        ("nowhere to be found", "", TEST, "invalid", "occurs 0 times"),
        ("load_fresh(token_ids + row)", "0", TEST + "_absent", "invalid", "pytest ended with status 4"),
    ],
)
def test_outcomes(build: Path, find: str, replace: str, test: str, outcome: str, detail: str) -> None:
    result = judge(Mutation(EMBED, find, replace, test), build)
    assert (result.outcome, detail in result.detail) == (outcome, True), result


def test_run_counts_and_fails_when_one_survives(capsys: pytest.CaptureFixture[str]) -> None:
    caught = Mutation(EMBED, "token_ids + row", "token_ids + row - 1", TEST)
    survivor = Mutation(EMBED, "const int64_t row = blockIdx.x;", "const int64_t row = blockIdx.x; ", TEST)
    unknown = Mutation(EMBED, "load_fresh(token_ids + row)", "0", TEST + "_absent")
    assert run([caught], build=BUILD) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "mutations: 1 caught, 0 survived"
    assert run([caught, survivor, unknown], build=BUILD) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[-2:] == ["not judged: 1", "mutations: 1 caught, 1 survived"]
    assert f"survived {survivor}" in printed
    assert run([unknown], build=BUILD) == 2


def test_every_kernel_has_several_faults_that_can_be_planted() -> None:
    root = Path(__file__).parents[2]
    mutations = load_mutations()
    assert len(mutations) >= 40
    for kernel in sorted((root / "kernels" / "cuda").glob("*.cu")):
        own = [m for m in mutations if m.file.endswith(f"/{kernel.name}")]
        assert len(own) >= 3, f"{kernel.name} has {len(own)} faults; several are wanted"
    for mutation in mutations:
        text = (root / mutation.file).read_text()
        assert text.count(mutation.find) == 1, f"{mutation}: the text occurs {text.count(mutation.find)} times"
        assert mutation.replace != mutation.find
    assert len({(m.file, m.find, m.replace) for m in mutations}) == len(mutations), "a fault is listed twice"


def test_a_sample_of_the_faults_is_caught() -> None:
    """The first of each of these kernels; `make mutation` plants all."""
    chosen = [m for m in sample(load_mutations(), 1) if Path(m.file).stem in SAMPLED]
    assert len(chosen) == len(SAMPLED)
    assert run(chosen, build=BUILD) == 0
