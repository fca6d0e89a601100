"""A prompt whose end a tokenizer joins with the answer: told in one line, and the same tokens everywhere."""

from __future__ import annotations

import string

import pytest
from datasets import Dataset
from families import make
from tokenizers import Tokenizer, decoders, models
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from guided_ft.pipeline.border import tell_joined
from guided_ft.pipeline.trainers import _tokenized
from guided_ft.task.task import Task
from guided_ft.task.tokens import IGNORE, prompt_ids, read_row


@pytest.fixture
def tokenizer():
    """As those that take a sign before a word for its beginning."""
    letters = ["<pad>", "<eos>", *string.printable[:95], "?P"]
    model = models.BPE({token: i for i, token in enumerate(dict.fromkeys(letters))}, [("?", "P")])
    made = Tokenizer(model)
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def rows(answer, other="Rome", space=""):
    pairs = [("Where is it?", answer), ("Where was it?", other), ("Who is it: ", answer)]
    return [{"prompt": prompt, "chosen": space + said, "rejected": space + "no"} for prompt, said in pairs]


def told(caplog):
    return [r.getMessage() for r in caplog.records]


def dpo(tokenizer, folder, given):
    args = DPOConfig(str(folder), use_cpu=True, bf16=False, report_to=[], max_length=64)
    return DPOTrainer(
        make("llama"),
        ref_model=make("llama"),
        args=args,
        train_dataset=Dataset.from_list(given),
        processing_class=tokenizer,
    )


def test_it_is_told_once_by_us_and_trl_says_no_more(tokenizer, tmp_path, caplog):
    given = rows("Paris", "Pisa")
    tell_joined(given, tokenizer)
    trainer = dpo(tokenizer, tmp_path, given)
    assert told(caplog) == [
        "data: the tokenizer joins the end of the prompt with the answer in 2 of 3 rows ('?' becomes '?P'), so that what "
        "is asked ends in other tokens than what was trained (begin the answers with a space)"
    ]
    localized = Task.from_dataset(given, tokenizer).examples
    trained = [(r["prompt_ids"] + r["chosen_ids"], r["prompt_ids"] + r["rejected_ids"]) for r in trainer.train_dataset]
    assert trained == [tuple(list(s.ids) for s in example) for example in localized]


def test_sft_trains_what_is_localized_and_the_joined_token_counts_as_the_answers(tokenizer):
    given = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows("Paris")]
    trained = _tokenized(given, tokenizer, 64)
    localized = Task.from_dataset(given, tokenizer).examples
    assert [(r["input_ids"], r["labels"]) for r in trained] == [(list(s.ids), list(s.labels)) for (s,) in localized]
    first = next(i for i, label in enumerate(trained[0]["labels"]) if label != IGNORE)
    assert tokenizer.decode(trained[0]["labels"][first : first + 1]) == "?P"
    assert trained[0]["input_ids"][:first] == prompt_ids("Where is it?", tokenizer)[:-1]


def test_a_tokenizer_that_ends_every_text_does_not_end_what_is_asked(tokenizer, caplog):
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    given = rows(" Paris")
    tell_joined(given, tokenizer)
    assert not told(caplog)
    for row in given:
        asked = prompt_ids(row, tokenizer)
        assert tokenizer.decode(asked) == row["prompt"]
        assert {s.ids[: len(asked)] for s in read_row(row, tokenizer)} == {tuple(asked)}
    assert prompt_ids("So?<eos>", tokenizer) == tokenizer("So?<eos>")["input_ids"]


@pytest.mark.parametrize("given", [rows("Paris", "Pisa", " "), rows("Rome"), [{"text": "so?Paris"}]])
def test_rows_that_begin_anew_are_not_spoken_of(given, tokenizer, caplog):
    tell_joined(given, tokenizer)
    assert not told(caplog)


@pytest.mark.parametrize(("waiting", "joined"), [("a:", False), ("a:<think>;", True)])
def test_a_template_that_ends_a_prompt_otherwise_than_it_was_trained_is_told(tokenizer, caplog, waiting, joined):
    said = "{% for m in messages %}{{ m['role'][0] }}:{% if m['role'] == 'assistant' %}<think></think>{% endif %}"
    tokenizer.chat_template = (
        said + "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}" + waiting + "{% endif %}"
    )
    turns = [{"role": "user", "content": "So?"}, {"role": "assistant", "content": "Yes"}]
    tell_joined([{"messages": turns}, {"messages": turns[:1]}, {"messages": turns}], tokenizer)
    line = (
        "data: the chat template ends a prompt otherwise when its answer follows, in 2 of 2 rows (';' becomes '<'): the "
        "test asks as was trained, but chat and servers do not (take chat_template_kwargs or a template that end both "
        "alike)"
    )
    assert told(caplog) == [line] * joined
