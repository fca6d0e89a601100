"""Talk to a trained model, and to its base beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import TextStreamer

from ..anatomy import base_model
from ..errors import GuidedError
from ..system.eval_mode import evaluating
from ..task.answers import check_window, window_of
from ..task.greedy import ends_of
from ..task.tokens import prompt_ids
from .finished import Finished

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Write = Callable[[str], None]

NEW = "/new"
"""What a person types to begin a new conversation."""


class _Stream(TextStreamer):
    """Hands text on as it comes, word by word."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.text, self._write = "", write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = text if self.text else text.lstrip()
        self.text += text
        if text:
            self._write(clean(text))


def reply(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | list[dict[str, str]],
    write: Write,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
) -> str:
    """Answer a text or messages, and write the answer as it comes.

    Args:
        max_new_tokens: at most; an answer ends, too, where the model's window does.
        temperature: 0: the likeliest token each time; higher: drawn, the more freely the higher.

    Returns:
        The answer.

    Raises:
        GuidedError: for a prompt that leaves no room in the model's window.
    """
    device = next(model.parameters()).device
    ids = torch.tensor([prompt_ids(prompt, tokenizer)], device=device)
    window = window_of(base_model(model).config)
    check_window(window, [ids.shape[1]], 1)
    room = max_new_tokens if window is None else min(max_new_tokens, window - ids.shape[1])
    drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    unset = {name: None for name in ("temperature", "top_p", "top_k") if name not in drawn}
    stream = _Stream(tokenizer, write)
    with evaluating(model), torch.no_grad():
        model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=room,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends_of(model, tokenizer.eos_token_id) or None,
            use_cache=True,
            streamer=stream,
            **drawn,
            **unset,
        )
    return stream.text


def chat(
    run: Finished,
    lines: Iterable[str],
    write: Write,
    *,
    base: bool = False,
    template: bool = False,
    system: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
) -> None:
    """Answer each line. An empty line is passed over.

    Args:
        base: let the model before training answer first, too; each answer then begins with who says it.
        template: the lines are the user's turns of one conversation (``/new`` begins another); otherwise each is a
            prompt of its own.
        system: what stands before a conversation.
        max_new_tokens, temperature: as in ``reply``.

    Raises:
        GuidedError: for a conversation without a chat template, or a ``system`` without a conversation.
    """
    if system is not None and not template:
        raise GuidedError("system: plain prompts have no system message (add --template, or leave it out)")
    if template and not run.tokenizer.chat_template:
        raise GuidedError("template: this model has no chat template (leave --template out)")
    start = [{"role": "system", "content": system}] if system is not None else []
    voices: dict[str, Callable[[], contextlib.AbstractContextManager[nn.Module]]] = {"base": run.base} if base else {}
    voices["trained"] = lambda: contextlib.nullcontext(run.model)
    turns = {name: list(start) for name in voices}
    for line in (line.strip() for line in lines):
        if line == NEW:
            turns = {name: list(start) for name in voices}
        if not line or line == NEW:
            continue
        for name, voice in voices.items():
            if base:
                write(f"{name}> ")
            turns[name].append({"role": "user", "content": line})
            with voice() as model:
                said = reply(
                    model,
                    run.tokenizer,
                    turns[name] if template else line,
                    write,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                )
            turns[name].append({"role": "assistant", "content": said})
            write("\n")


def clean(text: str) -> str:
    """What a model says may hold anything; it must not move the cursor or colour the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)
