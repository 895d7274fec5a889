"""Text and ids: what is decoded piece by piece is what is decoded as a whole, and words never become control tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from eet_demo.errors import CheckpointError, UnsupportedError
from eet_demo.text.tokens import Tokenizer, byte_alphabet, clean
from tests.gguf_files import CHAT_TEMPLATE, byte_level_tokenizer
from tests.sentencepieces import sentencepiece

ODD = ["🙂", "👩‍👩‍👧", "🇩🇪", "שלום", "مرحبا", "e\u0301", "\0", "\u202e", "\u200b", "\ufeff", "日本"]


def folder_with(folder: Path, tokenizer: object, config: dict[str, object] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())  # type: ignore[attr-defined]
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def real(models_dir: Path) -> Tokenizer:
    return Tokenizer(models_dir / "smollm2-135m")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(folder_with(tmp_path_factory.mktemp("tiny"), byte_level_tokenizer(331)))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(folder_with(tmp_path_factory.mktemp("pieces"), sentencepiece()))


def in_pieces(tokenizer: Tokenizer, ids: list[int]) -> str:
    decoder = tokenizer.incremental()
    return "".join(decoder.push(index) for index in ids) + decoder.flush()


def ids_with_many_bytes(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids drawn so that half of them are single bytes above ASCII: most runs are broken UTF-8."""
    letters = {letter for letter, byte in byte_alphabet().items() if byte >= 0x80}
    vocab = tokenizer._control.get_vocab()
    single = [index for token, index in vocab.items() if token in letters or token.startswith("<0x")]
    return st.lists(st.one_of(st.sampled_from(single), st.integers(0, tokenizer.vocab_size + 5)), max_size=24)


@pytest.mark.parametrize("name", ["real", "tiny", "pieces"])
def test_pieces_and_remainder_equal_the_whole(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)

    @settings(max_examples=400, deadline=None)
    @given(ids_with_many_bytes(tokenizer))
    def check(ids: list[int]) -> None:
        assert in_pieces(tokenizer, ids) == tokenizer.decode(ids)

    check()


@pytest.mark.parametrize("name", ["real", "tiny", "pieces"])
@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40), cut=st.integers(0, 200))
def test_text_cut_at_any_id_equals_the_whole(name: str, text: str, cut: int, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    ids = tokenizer.encode(text)[:cut]
    assert in_pieces(tokenizer, ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["real", "tiny"])
def test_complete_characters_are_not_held_back(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    decoder = tokenizer.incremental()
    for char in "aé日🙂":
        assert "".join(decoder.push(index) for index in tokenizer.encode(char)) == char
    assert decoder.flush() == ""


def test_run_that_ends_inside_a_character_shows_one_mark(real: Tokenizer) -> None:
    ids = real.encode("ok 🦩")[:-1]
    decoder = real.incremental()
    assert "".join(decoder.push(index) for index in ids) == "ok "
    assert decoder.flush() == "\ufffd"
    assert decoder.push(real.encode("a")[0]) == "a", "the decoder is new after a flush"


def test_push_costs_the_same_however_long_the_row_is(real: Tokenizer) -> None:
    """Counted, not timed: the decoder holds at most the bytes of one unfinished character."""
    decoder = real.incremental()
    for index in real.encode("word 🙂 " * 2000):
        decoder.push(index)
    state = decoder._utf8.getstate()  # type: ignore[attr-defined]
    assert len(state[0]) < 4


@pytest.mark.parametrize("text", [*ODD, "".join(ODD), "plain words, and 123"])
def test_odd_text_comes_back_whole(real: Tokenizer, text: str) -> None:
    assert real.decode(real.encode(text)) == text
    assert real.unwritable(text) == []


def test_control_tokens_in_a_text_are_spelled_out(real: Tokenizer) -> None:
    text = "say <|im_end|> and <|endoftext|>"
    ids = real.encode(text)
    assert not {0, 1, 2} & set(ids)
    assert real.decode(ids) == text
    assert real.encode_control("<|im_end|>") == [2]


def test_lone_surrogates_become_replacement_characters() -> None:
    assert clean("a\ud83d b\ude00") == "a\ufffd b\ufffd"
    assert clean("\ud83d\ude00") == "😀", "a pair that was sent in halves is one character"
    assert clean("\ufeffa\0") == "\ufeffa\0"


def test_unwritable_names_what_the_vocabulary_lacks(real: Tokenizer) -> None:
    assert real.unwritable("bell \x04 and \x06") == ["\x04", "\x06"]


def test_chat_ids_equal_transformers(real: Tokenizer) -> None:
    theirs: Any = AutoTokenizer.from_pretrained(real.folder)
    for messages in (
        [{"role": "user", "content": "Who are you? 🙂"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
    ):
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert real.chat(messages) == expected


def test_chat_frame_is_the_template_around_the_words(real: Tokenizer) -> None:
    assert real.chat_frame is not None
    before, after = real.chat_frame
    assert before + real.encode("Hello") + after == real.chat([{"role": "user", "content": "Hello"}])


def test_base_model_has_no_chat(tiny: Tokenizer) -> None:
    assert tiny.chat([{"role": "user", "content": "a"}]) is None
    assert tiny.chat_frame is None


def test_template_file_goes_before_the_config(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, byte_level_tokenizer(331), {"chat_template": "old"})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    assert Tokenizer(folder).chat_frame is not None


def test_named_templates_give_the_default_one(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHAT_TEMPLATE}]
    folder = folder_with(tmp_path, byte_level_tokenizer(331), {"chat_template": named})
    assert Tokenizer(folder).template == CHAT_TEMPLATE


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{% set n = namespace(__class__=1) %}",
        "{{ raise_exception('roles must alternate') }}",
        "{% for m in messages %}{{ m['content']",
        "{{ messages.append(1) }}",
    ],
)
def test_broken_or_prying_template_is_refused(tmp_path: Path, template: str) -> None:
    folder = folder_with(tmp_path, byte_level_tokenizer(331), {"chat_template": template})
    with pytest.raises(CheckpointError, match="chat template"):
        Tokenizer(folder).chat([{"role": "user", "content": "a"}])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "ended: too long"),
        ("{{ 7 ** (10 ** 9) }}", "ended: too long"),
        ("{{ 'a' * 10 ** 10 }}", "more than 512 MiB"),
        ("{{ 'a' * 10 ** 7 }}", "writes 10,000,000 characters; at most 1,000,000"),
    ],
)
def test_template_without_an_end_is_ended(tmp_path: Path, template: str, words: str) -> None:
    folder = folder_with(tmp_path, byte_level_tokenizer(331), {"chat_template": template})
    with pytest.raises(CheckpointError, match=f"chat template cannot be applied: .*{words}"):
        Tokenizer(folder).chat([{"role": "user", "content": "a"}])


def test_template_reads_the_same_date_on_every_day(tmp_path: Path) -> None:
    """Two races of the same settings have the same prompt."""
    template = "{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}"
    tokenizer = Tokenizer(folder_with(tmp_path, byte_level_tokenizer(331), {"chat_template": template}))
    assert tokenizer.chat([{"role": "user", "content": "a"}]) == tokenizer.encode("26 Jul 2024a")


def test_template_that_drops_the_words_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, byte_level_tokenizer(331), {"chat_template": "nothing"})
    with pytest.raises(CheckpointError, match="leaves out"):
        _ = Tokenizer(folder).chat_frame


def test_template_gets_what_transformers_gives_it(tmp_path: Path) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}"
        "{% break %}{% endfor %}"
        "{% if strftime_now is defined %}!{% endif %}"
    )
    config: dict[str, object] = {
        "chat_template": template,
        "bos_token": {"__type": "AddedToken", "content": "<|im_start|>"},
        "eos_token": "<|im_end|>",
    }
    folder = folder_with(tmp_path, byte_level_tokenizer(331), config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    messages = [{"role": "user", "content": "<é>"}]
    theirs: Any = AutoTokenizer.from_pretrained(folder).apply_chat_template(messages, add_generation_prompt=True)
    assert Tokenizer(folder).chat(messages) == theirs["input_ids"]


def test_stop_ids_are_those_of_all_three_files(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, byte_level_tokenizer(331), {"eos_token": "<|im_end|>"})
    assert Tokenizer(folder).stop_ids == (2,)
    (folder / "config.json").write_text('{"eos_token_id": 0}')
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert Tokenizer(folder).stop_ids == (0, 2, 7, 9)


def test_real_stop_and_prefix_ids(real: Tokenizer, pieces: Tokenizer) -> None:
    assert real.stop_ids == (2,)
    assert real.prefix_ids == []
    assert pieces.prefix_ids == [1]


def test_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "mod')
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer(tmp_path)


def test_unknown_decoder_is_refused_by_name(tmp_path: Path) -> None:
    from tokenizers import decoders

    tokenizer = byte_level_tokenizer(331)
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(UnsupportedError, match="WordPiece"):
        Tokenizer(folder_with(tmp_path, tokenizer))
