"""Commands that use a trained model: talk to it, let it answer a file, export it, push it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..errors import GuidedError
from .folders import RunFolder
from .program import app, examples
from .stages import Trust

Base = Annotated[bool, typer.Option("--base", help="Let the model before training answer, too.")]
Length = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens of an answer at most.")]
Lora = Annotated[bool, typer.Option("--lora", help="A stock LoRA of one rank, for programs that know nothing else.")]
Merged = Annotated[bool, typer.Option("--merged", help="A plain checkpoint that needs nothing but transformers.")]
Gguf = Annotated[bool, typer.Option("--gguf", help="One file for llama.cpp, of unquantized weights.")]


@app.command(epilog=examples("chat runs/quickstart", "chat runs/quickstart --base --max-new-tokens 40"))
def chat(
    run_folder: RunFolder,
    base: Base = False,
    template: Annotated[
        bool | None,
        typer.Option("--template/--plain", help="A conversation, or prompts as they are (default: as it was trained)."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message of a conversation.")] = None,
    max_new_tokens: Length = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest answer; higher: drawn.")] = 0.0,
    trust_remote_code: Trust = False,
) -> None:
    """Talk to the model of a run; lines may come from a pipe."""
    from ..use.finished import Finished

    run = Finished(run_folder, trust_remote_code)
    talks = (run.talks or system is not None) if template is None else template
    by_hand = sys.stdin.isatty()
    from ..system.progress import hushed
    from ..use.chat import chat as answer

    with hushed():
        if by_hand:
            how = "a conversation (/new begins another)" if talks else "a prompt in each line (--template talks)"
            typer.echo(f"{run.recipe.name}, {run.recipe.model}: {how}; Control-D ends it", err=True)
        answer(
            run,
            _typed() if by_hand else sys.stdin,
            lambda text: typer.echo(text, nl=False),
            base=base,
            template=talks,
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
        )


def _typed() -> Iterator[str]:
    """Lines that a person types, until the end of the file or an interrupt."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (input() then has a history)
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return


@app.command(
    epilog=examples(
        "generate runs/quickstart questions.jsonl", "generate runs/quickstart questions.jsonl --base --out a.jsonl"
    )
)
def generate(
    run_folder: RunFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows with prompts, in any format that trains too.")],
    out: Annotated[Path | None, typer.Option(help="JSONL file of answers (default: print them).")] = None,
    base: Base = False,
    max_new_tokens: Length = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 16,
    trust_remote_code: Trust = False,
) -> None:
    """Answer the rows of a file with the model of a run."""
    from ..use.finished import Finished
    from ..use.prompts import read_questions

    run = Finished(run_folder, trust_remote_code)
    questions = read_questions(file, run.recipe.data)
    from ..system.files import write_text
    from ..system.progress import hushed
    from ..use.generate import generate as answer

    with hushed():
        rows, right = answer(run, questions, base=base, max_new_tokens=max_new_tokens, batch_size=batch_size)
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
        typer.echo(f"wrote {out}: {len(rows)} rows")
    for name, share in right.items():
        typer.echo(f"{name.replace('_', ' ')}s that match exactly: {share:.0f} % of {len(rows)}", err=True)


@app.command(
    epilog=examples(
        "export runs/quickstart", "export runs/quickstart --lora", "export runs/quickstart --gguf --out sums.gguf"
    )
)
def export(
    run_folder: RunFolder,
    lora: Lora = False,
    merged: Merged = False,
    gguf: Gguf = False,
    out: Annotated[Path | None, typer.Option(help="Folder or file to write (default: export/ of the run).")] = None,
    trust_remote_code: Trust = False,
) -> None:
    """Write the model of a run in a form that needs no guided_ft (default: --merged), tokenizer included."""
    from ..use.finished import Finished

    form, run = _form(lora, merged, gguf) or "merged", Finished(run_folder, trust_remote_code)
    from ..system.progress import hushed
    from ..use.leave import export as write

    with hushed():
        typer.echo(f"wrote {write(run, form, out)}")


@app.command(epilog=examples("push runs/quickstart me/sums", "push runs/quickstart me/sums --merged --private"))
def push(
    run_folder: RunFolder,
    repository: Annotated[str, typer.Argument(metavar="REPOSITORY", help="On the Hub: owner/name.")],
    lora: Lora = False,
    merged: Merged = False,
    gguf: Gguf = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Upload what a run trained to the Hub, with a card that says what it is (log in first: hf auth login)."""
    from ..use.finished import Finished

    form, run = _form(lora, merged, gguf), Finished(run_folder, trust_remote_code)
    from ..system.progress import hushed
    from ..use.leave import push as upload

    with hushed():
        typer.echo(upload(run, repository, form, private=private or None))


def _form(lora: bool, merged: bool, gguf: bool) -> str | None:
    asked = [name for name, on in (("lora", lora), ("merged", merged), ("gguf", gguf)) if on]
    if len(asked) > 1:
        raise GuidedError(f"--{asked[0]} and --{asked[1]}: write one form at a time")
    return asked[0] if asked else None
