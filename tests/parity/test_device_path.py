"""The executor of `cuda` and `sim`: every precision and switch against the reference, faults, and the real model.

The same tests run on a GPU (`-m gpu`); the simulator runs the very same launches on the CPU.
"""

from __future__ import annotations

import gc
import weakref
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from eet_demo import Engine, EngineOptions, Sampling
from eet_demo.errors import KernelFaultError, NumericsError, RequestError, UnsupportedError
from eet_demo.text.prompts import build_prompt
from eet_demo.text.tokens import Tokenizer
from tests.devices import CUDA, SIM
from tests.parity.checkpoints import make_checkpoint

DEVICES = (SIM, CUDA)
DRAWN = Sampling(0.8, 40, 0.95, 7)
VOCAB = 331
LENGTHS = (20, 3, 1)
"""Ragged, 24 rows in all: prefill takes GEMMs, decode the fused kernels."""

SWITCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "no-graph": {"graph": False},
    "a-token-a-graph": {"tokens_per_graph": 1},
    "eight-tokens-a-graph": {"tokens_per_graph": 8},
    "no-prefetch": {"prefetch": False},
    "no-split": {"split_kv": "off"},
    "stream": {"split_kv": "stream"},
    "a-prompt-a-pass": {"ragged_prefill": False},
    "own-workspace": {"shared_workspace": False},
    "passes-of-5": {"prefill_chunk": 5},
    "debug": {"debug": True},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    make_checkpoint(folder, "llama")
    return folder


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder converted from a GGUF of Q4_1 blocks, which lies in it."""
    gguf = pytest.importorskip("gguf", reason="a GPU host need not have it")
    from eet_demo.models.gguf.convert import convert
    from tests.gguf_files import random_model, write_gguf

    folder = tmp_path_factory.mktemp("blocks")
    path = write_gguf(folder / "model.gguf", random_model("llama"), gguf.GGMLQuantizationType.Q4_1)
    convert(path, folder)
    return folder


@pytest.fixture(scope="module")
def expected(llama: Path) -> dict[Sampling, list[list[int]]]:
    with Engine.from_pretrained(llama, "reference", max_batch=3, max_context=96) as engine:
        return {sampling: engine.generate(prompts(), 8, sampling).token_ids for sampling in (Sampling(), DRAWN)}


def prompts(lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(3, VOCAB, length).tolist() for length in lengths]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("switch", SWITCHES)
def test_no_switch_changes_a_token(
    llama: Path, expected: dict[Sampling, list[list[int]]], device: str, switch: str
) -> None:
    """Greedy, then drawn: the second request goes through what the first captured."""
    options = EngineOptions(**SWITCHES[switch])
    with Engine.from_pretrained(llama, device, max_batch=3, max_context=96, options=options) as engine:
        for sampling, wanted in expected.items():
            assert engine.generate(prompts(), 8, sampling).token_ids == wanted, sampling


@pytest.mark.gpu
def test_pdl_off_changes_no_token(llama: Path, expected: dict[Sampling, list[list[int]]]) -> None:
    options = EngineOptions(pdl=False)
    with Engine.from_pretrained(llama, "cuda", max_batch=3, max_context=96, options=options) as engine:
        assert engine.generate(prompts(), 8).token_ids == expected[Sampling()]


@pytest.mark.parametrize("device", DEVICES)
def test_stop_tokens_end_rows_on_the_device(
    llama: Path, expected: dict[Sampling, list[list[int]]], device: str
) -> None:
    """The rows that go on are not disturbed by those that ended, nor by the steps launched ahead."""
    wanted = expected[DRAWN]
    stops = [wanted[0][2], wanted[2][5]]
    cut = [row[: next((i + 1 for i, token in enumerate(row) if token in stops), 8)] for row in wanted]
    assert sorted(map(len, cut))[0] < 8
    with Engine.from_pretrained(llama, device, max_batch=3, max_context=96) as engine:
        for _ in range(2):
            assert engine.generate(prompts(), 8, DRAWN, stops).token_ids == cut
        with pytest.raises(RequestError, match="65 stop tokens given; at most 64"):
            engine.generate(prompts(), 8, DRAWN, range(65))
        assert engine.generate(prompts(), 8, DRAWN).token_ids == wanted


@pytest.mark.parametrize("device", DEVICES)
def test_cancelled_request_leaves_nothing_behind(
    llama: Path, expected: dict[Sampling, list[list[int]]], device: str
) -> None:
    with Engine.from_pretrained(llama, device, max_batch=3, max_context=96) as engine:
        for taken in (1, 3):
            stream = engine.stream(prompts((7, 2)), 30)
            assert len(list(islice(stream, taken))) == taken
            stream.close()
        assert engine.generate(prompts(), 8).token_ids == expected[Sampling()]


@pytest.mark.parametrize("device", DEVICES)
def test_more_rows_than_the_fused_kernels_take(llama: Path, device: str) -> None:
    """19 sequences: decode goes through GEMMs, the head and the sampler too."""
    asked = prompts(tuple(1 + i % 4 for i in range(19)))
    with Engine.from_pretrained(llama, "reference", max_batch=19, max_context=16) as engine:
        wanted = engine.generate(asked, 4).token_ids
    with Engine.from_pretrained(llama, device, max_batch=19, max_context=16) as engine:
        assert engine.generate(asked, 4).token_ids == wanted


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weights", ["q8_0", "packed"])
def test_quantised_weights_are_the_references(blocks: Path, device: str, weights: str) -> None:
    """The reference computes with what the blocks stand for; so must kernels that unpack them as they go."""
    asked = prompts()
    with Engine.from_pretrained(blocks, "reference", weights=weights, max_batch=3, max_context=64) as engine:
        wanted, last = engine.generate(asked, 6).token_ids, engine.prefill_logits(asked)
    with Engine.from_pretrained(blocks, device, weights=weights, max_batch=3, max_context=64) as engine:
        assert engine.generate(asked, 6).token_ids == wanted
        assert np.abs(engine.prefill_logits(asked) - last).max() <= 1e-4 * np.abs(last).max()
        few = engine.prefill_logits(asked[1:])
        assert np.abs(few - last[1:]).max() <= 1e-4 * np.abs(last).max()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_are_as_close_as_torch(llama: Path, device: str, dtype: str) -> None:
    """Against float64: at most twice the error of the same model in torch in the same dtype, over all positions."""
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64).eval()
    half = AutoModelForCausalLM.from_pretrained(llama, dtype=getattr(torch, dtype)).eval()
    asked = prompts()
    with Engine.from_pretrained(llama, device, dtype, max_batch=3, max_context=64) as engine:
        for pieces in (asked, asked[1:]):  # GEMMs, then fused kernels alone
            for row, start, logits in engine.logits(pieces):
                ids = torch.tensor([pieces[row]])
                with torch.no_grad():
                    exact, torchs = (copy(ids).logits[0].double().numpy() for copy in (model, half))
                positions = slice(start, start + len(logits))
                error = np.abs(logits - exact[positions]).max()
                assert error <= 2 * np.abs(torchs - exact).max() + 1e-3, f"row {row} from {start}"


@pytest.mark.parametrize("device", DEVICES)
def test_debug_names_the_op_that_overflows(llama: Path, tmp_path: Path, device: str) -> None:
    """In float16 a hidden value beyond 65504 is infinite; what follows it is never sampled from."""
    for path in llama.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.1.mlp.gate_proj.weight"] *= 3e4
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with (
        Engine.from_pretrained(tmp_path, device, "float16", max_batch=1, max_context=64) as engine,
        pytest.raises(NumericsError, match=r"row 0 are NaN or infinite.*debug=on"),
    ):
        engine.generate(prompts((4,)), 4)
    debug = EngineOptions(debug=True)
    with (
        Engine.from_pretrained(tmp_path, device, "float16", max_batch=1, max_context=64, options=debug) as engine,
        pytest.raises(NumericsError, match=r"layers\.1\.norm_mlp wrote NaN or infinity, in float16"),
    ):
        engine.generate(prompts((4,)), 4)
    tensors["model.layers.1.mlp.gate_proj.weight"] *= 3e4
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(NumericsError, match=r"layers\.1\.up\.weight holds values beyond float16's range"):
        Engine.from_pretrained(tmp_path, device, "float16", max_batch=1, max_context=64)


def test_arena_is_the_plan_to_the_byte(llama: Path) -> None:
    plan = Engine.plan(llama, "sim", "float16", max_batch=3, max_context=96)
    with Engine.from_pretrained(llama, "sim", "float16", max_batch=3, max_context=96) as engine:
        assert engine.memory == plan
        assert engine.memory_plan.total_bytes == plan.total_bytes
    assert plan.kv_cache_bytes == 3 * 2 * 3 * 2 * 96 * 16 * 2


def test_engine_whose_device_failed_gives_its_memory_back(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KernelFaultError("an illegal memory access")

    engine = Engine.from_pretrained(llama, "sim", max_batch=1, max_context=32)
    executor: Any = engine._executor
    memory = weakref.ref(executor._arena.memory)
    monkeypatch.setattr(executor._device, "synchronise", fail)
    with pytest.raises(KernelFaultError, match="illegal memory access"):
        engine.close()
    engine.close()
    gc.collect()
    assert memory() is None


def test_cuda_without_a_gpu_is_refused_in_words(llama: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert Engine.plan(llama, "cuda", "float16", max_context=96).total_bytes  # a plan needs no device
    with pytest.raises(UnsupportedError, match=r"device 'cuda' needs (CuPy|an NVIDIA GPU)"):
        Engine.from_pretrained(llama, "cuda", "float16", max_context=96)
    with pytest.raises(UnsupportedError, match="device 'sim' does not know the option pdl"):
        Engine.from_pretrained(llama, "sim", options=EngineOptions(pdl=False))


@pytest.fixture(scope="module")
def real(model_dir: Path) -> tuple[PreTrainedModel, list[int]]:
    prompt = build_prompt(Tokenizer(model_dir), "one-word-at-a-time", "", context=64, batch=1, ragged=False)[0][:2]
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True).eval(), prompt


@pytest.mark.parametrize("device", DEVICES)
def test_real_model_writes_what_stock_writes(
    model_dir: Path, real: tuple[PreTrainedModel, list[int]], device: str
) -> None:
    """SmolLM2-135M in float32, its prompt and a few tokens, on kernels run thread by thread."""
    model, prompt = real
    new_tokens = 3 if device == "sim" else 64
    ids = torch.tensor([prompt])
    out = model.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    with Engine.from_pretrained(model_dir, device, max_batch=1, max_context=128) as engine:
        assert engine.generate([prompt], new_tokens).token_ids == [out[0, len(prompt) :].tolist()]
