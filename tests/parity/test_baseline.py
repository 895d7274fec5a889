"""The fair-baseline contract, on small random checkpoints: stock is stock, asked for exactly the engine's work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from eet_demo.errors import CheckpointError, MemoryPlanError, RequestError, UnsupportedError
from eet_demo.records import Sampling
from eet_demo.sides.side import RunRequest, SideOptions, StopRun
from eet_demo.sides.stock import BaselineSide
from tests.parity.caches import cache_bytes
from tests.parity.checkpoints import make_checkpoint

PROMPT = (17, 5, 93, 200, 41, 8, 77)
MakeSide = Callable[..., BaselineSide]


class ListSink:
    """Keeps what a run reports; `stop_after` steps it asks to stop."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.started_ns: list[int] = []
        self.times_ns: list[int] = []
        self.steps: list[list[int | None]] = []
        self._stop_after = stop_after

    @property
    def stopped(self) -> bool:
        return self._stop_after is not None and len(self.steps) >= self._stop_after

    def started(self, time_ns: int) -> None:
        self.started_ns.append(time_ns)

    def tokens(self, time_ns: int, token_ids: Sequence[int | None]) -> None:
        self.times_ns.append(time_ns)
        self.steps.append(list(token_ids))

    def progress(self, done_tokens: int, total_tokens: int) -> None:
        raise AssertionError("stock cannot report progress inside its prefill")

    def rows(self) -> list[list[int]]:
        return [[token_id for token_id in row if token_id is not None] for row in zip(*self.steps, strict=True)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for variant in ("gpt2", "llama"):
        made[variant] = tmp_path_factory.mktemp("checkpoints") / variant
        make_checkpoint(made[variant], variant, seed=3)
    return made


@pytest.fixture
def make_side(folders: dict[str, Path]) -> Iterator[MakeSide]:
    threads = torch.get_num_threads()

    def make(model: str | Path = "llama", side: str = "stock", **changed: Any) -> BaselineSide:
        path = str(folders[model] if isinstance(model, str) else model)
        plain = SideOptions(side, path, "cpu", "float32", "dense", threads=1, max_batch=4, max_context=96)
        made = BaselineSide(replace(plain, **changed))
        made.load()
        return made

    yield make
    torch.set_num_threads(threads)


def request(*prompts: Sequence[int], new_tokens: int = 12, **changed: Any) -> RunRequest:
    return RunRequest(
        tuple(map(tuple, prompts)) or (PROMPT,), new_tokens, changed.pop("sampling", Sampling()), **changed
    )


def run(side: BaselineSide, asked: RunRequest) -> ListSink:
    sink = ListSink()
    side.run(asked, sink)
    return sink


def altered_copy(source: Path, target: Path, name: str, **fields: Any) -> Path:
    """A copy of a model folder with fields of one of its JSON files changed."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    values = json.loads((target / name).read_text()) if (target / name).is_file() else {}
    (target / name).write_text(json.dumps(values | fields))
    return target


@pytest.mark.parametrize(("device", "placed"), [("cuda", {"": "cuda"}), ("cpu", None)])
def test_weights_go_straight_to_a_gpu(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, device: Any, placed: Any
) -> None:
    """And nowhere else: `auto` would put what does not fit somewhere else, and slow stock down by it."""
    asked: list[dict[str, Any]] = []

    def fail(folder: Path, **options: Any) -> None:
        asked.append(options)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    side = BaselineSide(SideOptions("stock", str(folders["llama"]), device, "float32", "dense", 1, 4, 96))
    with pytest.raises(MemoryPlanError, match=r"Tried to allocate 2\.00 GiB"):
        side.load()
    assert asked[0]["device_map"] == placed


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_stock_writes_what_transformers_writes(make_side: MakeSide, folders: dict[str, Path], model: str) -> None:
    plain: Any = transformers.AutoModelForCausalLM.from_pretrained(folders[model], dtype=torch.float32)
    inputs = torch.tensor([PROMPT])
    expected = plain.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=12, do_sample=False)
    assert run(make_side(model), request()).rows() == [expected[0, len(PROMPT) :].tolist()]


def test_stock_ignores_a_repetition_penalty_shipped_in_the_checkpoint(
    make_side: MakeSide, folders: dict[str, Path], tmp_path: Path
) -> None:
    planted = altered_copy(
        folders["llama"], tmp_path / "planted", "generation_config.json", repetition_penalty=5.0, top_k=3, max_length=9
    )
    asked = request(new_tokens=40)
    clean = run(make_side("llama"), asked).rows()
    naive: Any = transformers.AutoModelForCausalLM.from_pretrained(planted, dtype=torch.float32)
    inputs = torch.tensor([PROMPT])
    changed = naive.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=40)[
        0, len(PROMPT) :
    ].tolist()
    assert changed != clean[0], "the planted penalty must change a naive run, or this test shows nothing"
    assert run(make_side(planted), asked).rows() == clean


@pytest.mark.parametrize("model", ["gpt2", "llama"])
@pytest.mark.parametrize("side", ["stock", "stock-eager", "stock-static"])
def test_stock_ragged_batch_equals_its_rows_alone(make_side: MakeSide, model: str, side: str) -> None:
    prompts = [PROMPT, (4,), (9, 300, 12), PROMPT[::-1]]
    stock = make_side(model, side)
    alone = [run(stock, request(prompt)).rows()[0] for prompt in prompts]
    assert run(stock, request(*prompts)).rows() == alone


def test_stock_is_told_every_sampling_field(make_side: MakeSide) -> None:
    stock = make_side()
    greedy = stock.generate_arguments(request())
    expected = {"do_sample": False, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    assert expected.items() <= greedy.items()
    assert greedy["eos_token_id"] is None
    assert greedy["max_new_tokens"] == 12
    drawn = stock.generate_arguments(request(sampling=Sampling(0.7, 40, 0.9, 11), stop_token_ids=(2, 7)))
    assert {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 40,
        "top_p": 0.9,
        "eos_token_id": [2, 7],
    }.items() <= drawn.items()
    assert not {"cache_implementation", "past_key_values"} & set(greedy)


def test_static_cache_stays_where_it_is_between_runs(make_side: MakeSide) -> None:
    """A cache at another address would be compiled and captured anew, inside the clock."""
    stock = make_side(side="stock-static", max_batch=1, max_context=len(PROMPT) + 12)
    rows, places = [], []
    for new_tokens in (5, 12, 12):
        rows.append(run(stock, request(new_tokens=new_tokens)).rows()[0])
        places.append([layer.keys.data_ptr() for layer in stock._static_cache.layers])
    assert places[0] == places[1] == places[2]
    assert rows[1] == rows[2] == run(make_side(), request()).rows()[0]
    assert rows[0] == rows[1][:5]
    assert stock._static_cache.layers[0].max_cache_len == len(PROMPT) + 12


def test_static_cache_on_a_cpu_says_that_nothing_is_compiled(folders: dict[str, Path]) -> None:
    options = SideOptions("stock-static", str(folders["llama"]), "cpu", "float32", "dense", 1, 1, 32)
    assert BaselineSide(options).load().details["compiled"] is False


def test_stock_without_a_gpu_is_refused_on_cuda(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedError, match="stock needs a GPU that torch"):
        BaselineSide(SideOptions("stock", str(folders["llama"]), "cuda", "float16", "dense", 1, 1, 32)).load()


def test_shape_is_drawn_at_its_exact_size() -> None:
    options = SideOptions("stock", "shape:distilgpt2", "cpu", "bfloat16", "dense", 1, 1, 32)
    stock = BaselineSide(options)
    config = stock.load()
    assert config.dtype == "bfloat16"
    assert stock.memory_bytes()["weights"] >= 2 * 81_912_576, "distilgpt2 has 81,912,576 parameters"
    assert len(run(stock, request(new_tokens=2)).rows()[0]) == 2


def test_stock_samples_the_same_for_the_same_seed(make_side: MakeSide) -> None:
    stock = make_side()
    rows = [run(stock, request(sampling=Sampling(1.0, 0, 1.0, seed))).rows() for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]


def test_stock_writes_exactly_n_tokens_past_an_end_of_sequence(
    make_side: MakeSide, folders: dict[str, Path], tmp_path: Path
) -> None:
    third = run(make_side(), request()).rows()[0][2]
    for name in ("config.json", "generation_config.json"):
        source = altered_copy(folders["llama"], tmp_path / name, name, eos_token_id=third)
        assert len(run(make_side(source), request()).rows()[0]) == 12, name


def test_stock_free_running_rows_end_apart(make_side: MakeSide) -> None:
    stock = make_side()
    prompts = [PROMPT, (9, 300, 12)]
    full = run(stock, request(*prompts)).rows()
    end = next(token_id for token_id in full[0] if token_id not in full[1])
    rows = run(stock, request(*prompts, stop_token_ids=(end,))).rows()
    assert rows == [full[0][: full[0].index(end) + 1], full[1]]


@pytest.mark.parametrize(
    ("side", "attention", "cache"),
    [
        ("stock", "sdpa", "DynamicCache"),
        ("stock-eager", "eager", "DynamicCache"),
        ("stock-static", "sdpa", "StaticCache"),
    ],
)
def test_stock_variant_is_what_it_says(
    make_side: MakeSide, monkeypatch: pytest.MonkeyPatch, side: str, attention: str, cache: str
) -> None:
    stock = make_side(side=side)
    model = stock._model
    seen: list[Any] = []
    forward = model.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["past_key_values"])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", spy)
    run(stock, request(PROMPT, (4, 5)))
    assert {type(cached).__name__ for cached in seen} == {cache}
    assert model.config._attn_implementation == attention
    details = stock.load().details
    assert (details["attention"], details["cache"]) == (attention, cache)
    kinds = stock.memory_bytes()
    assert (kinds["kv_cache_used"], kinds["kv_cache_reserved"]) == cache_bytes(seen[-1], len(PROMPT) + 11)
    assert kinds["weights"] == sum(p.numel() * 4 for p in model.parameters()) + sum(
        b.numel() * b.element_size() for b in model.buffers()
    )


def test_stock_stamps_each_token_right_after_its_own_forward(
    make_side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = make_side()
    model = stock._model
    forward, ends = model.forward, []

    def spy(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        ends.append(time.perf_counter_ns())
        return output

    monkeypatch.setattr(model, "forward", spy)
    sink = ListSink()
    clock = stock.run(request(), sink)
    assert len(ends) == len(sink.times_ns) == 12
    assert sink.started_ns == [clock.start_ns]
    ordered = [
        clock.start_ns,
        *(time_ns for pair in zip(ends, sink.times_ns, strict=True) for time_ns in pair),
        clock.end_ns,
    ]
    assert ordered == sorted(ordered), "a stamp one step late would mean tokens are delivered asynchronously"


def test_stock_moves_its_ids_to_the_device_inside_the_clock(
    make_side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the engine does: at t0 both have them on the host alone."""
    stock = make_side()
    happened: list[object] = []
    move = torch.Tensor.to

    def spy(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        happened.append(tuple(tensor.shape) if args == (stock._device,) else None)
        return move(tensor, *args, **kwargs)

    class Started(ListSink):
        def started(self, time_ns: int) -> None:
            happened.append("t0")

    monkeypatch.setattr(torch.Tensor, "to", spy)
    stock.run(request(), Started())
    moved = [index for index, what in enumerate(happened) if what == (1, len(PROMPT))]
    assert len(moved) >= 2, "the ids and their mask"
    assert min(moved) > happened.index("t0")


@pytest.mark.parametrize("stop_after", [0, 1, 5])
def test_stock_stops_in_prefill_and_decode_and_runs_again(make_side: MakeSide, stop_after: int) -> None:
    stock = make_side()
    sink = ListSink(stop_after)
    with pytest.raises(StopRun):
        stock.run(request(), sink)
    assert len(sink.steps) == stop_after
    assert len(run(stock, request()).steps) == 12


def test_stock_uses_the_threads_of_the_race(make_side: MakeSide) -> None:
    side = make_side(threads=2)
    assert torch.get_num_threads() == 2
    assert side.load().threads == 2


def test_stock_logits_are_those_of_a_plain_forward(make_side: MakeSide) -> None:
    stock = make_side("gpt2")
    with torch.no_grad():
        expected = stock._model(torch.tensor([PROMPT])).logits[0, -1].numpy()
    found = stock.logits_at(PROMPT)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_stock_computes_in_the_dtype_asked_for(make_side: MakeSide, dtype: str) -> None:
    stock = make_side(dtype=dtype)
    assert {str(parameter.dtype) for parameter in stock._model.parameters()} == {f"torch.{dtype}"}
    assert len(run(stock, request(new_tokens=3)).steps) == 3


def test_stock_refuses_a_dtype_it_lacks(make_side: MakeSide) -> None:
    with pytest.raises(UnsupportedError, match=r"float64.*bfloat16"):
        make_side(dtype="float64")


def test_stock_refuses_an_empty_prompt(make_side: MakeSide) -> None:
    with pytest.raises(RequestError, match="at least one"):
        run(make_side(), request(PROMPT, ()))


def test_stock_refuses_a_checkpoint_that_lacks_tensors(
    make_side: MakeSide, folders: dict[str, Path], tmp_path: Path
) -> None:
    deeper = altered_copy(folders["llama"], tmp_path / "deeper", "config.json", num_hidden_layers=4)
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors.*layers\.3"):
        make_side(deeper)


def test_stock_refuses_a_truncated_file_and_a_pickle(
    make_side: MakeSide, folders: dict[str, Path], tmp_path: Path
) -> None:
    broken = altered_copy(folders["llama"], tmp_path / "broken", "config.json")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot load"):
        make_side(broken)
    weights.unlink()
    torch.save({}, broken / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot load"):
        make_side(broken)


def test_stock_never_runs_code_of_a_checkpoint(make_side: MakeSide, folders: dict[str, Path], tmp_path: Path) -> None:
    mined = altered_copy(
        folders["llama"],
        tmp_path / "mined",
        "config.json",
        model_type="mine",
        architectures=["Mine"],
        auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Mine"},
    )
    (mined / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(CheckpointError):
        make_side(mined)
    assert not (tmp_path / "ran").exists()
