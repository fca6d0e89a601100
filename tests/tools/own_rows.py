"""Rows as people have them, in each of fourteen formats, and a chat template that shows what it is given."""

from __future__ import annotations

TEMPLATE = (
    "{% for t in tools or [] %}[{{ t['name'] }}]{% endfor %}{{ mood or '' }}{% for m in messages %}"
    "{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


def said(text, role="user"):
    return {"role": role, "content": text}


def chat(i):
    return {
        "prompt": [said(f"{i}?")],
        "chosen": [said(f"{2 * i}", "assistant")],
        "rejected": [said(f"{i}!", "assistant")],
        "tools": [{"name": "add"}, {"name": "sub", "more": i}][: 1 + i % 2],
        "chat_template_kwargs": {"mood": "glad" if i % 3 else "calm"},
    }


ROWS = {
    "completion": lambda i: {"prompt": f"{i}+1 =", "completion": f" {i + 1}"},
    "completion, messages": lambda i: {"prompt": [said(f"{i}?")], "completion": [said(f"{i}", "assistant")]},
    "preference": lambda i: {"prompt": f"{i} =", "chosen": f" {i}", "rejected": f" {i}0"},
    "preference, messages": chat,
    "implicit": lambda i: {"chosen": f"{i} = a", "rejected": f"{i} = b"},
    "implicit, messages": lambda i: {k: [*chat(i)["prompt"], *chat(i)[k]] for k in ("chosen", "rejected")},
    "messages": lambda i: {"messages": [said(f"{i}?"), said(f"{2 * i}", "assistant")], "tools": chat(i)["tools"]},
    "text": lambda i: {"text": f"{i} is {i}"},
    "alpaca": lambda i: {"instruction": "Add.", "input": f"{i} 1", "output": f"{i + 1}"},
    "sharegpt": lambda i: {"conversations": [{"from": "human", "value": f"{i}?"}, {"from": "gpt", "value": "yes"}]},
    "question": lambda i: {"question": f"{i}?", "answer": f"{i}"},
    "input": lambda i: {"input": f"{i}?", "output": f"{i}"},
    "response": lambda i: {"prompt": f"{i}?", "response": f"{i}"},
    "label": lambda i: {"text": f"{i} things", "label": ["few", "many"][i % 2]},
}
"""Fourteen formats: a row of each by its number."""
