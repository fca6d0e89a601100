"""Upload an adapter or a model to the Hub, with a card that says what it is."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from ..errors import GuidedError
from .adapted import adapted
from .card import carry


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload adapter",
) -> str:
    """Upload the adapters to a repository of the Hub, with a model card that says what they are and how to load them.

    ``PeftModel.push_to_hub`` replaces the card that ``save_pretrained`` wrote by the repository's, or by an empty form
    if it has none. Here the repository's own card is kept and brought up to date; from then on both do.

    Returns:
        The address of the commit.

    Raises:
        GuidedError: if the Hub refuses or cannot be reached.
    """
    peft_model = adapted(model)
    with tempfile.TemporaryDirectory() as folder:
        peft_model.save_pretrained(folder)
        return push_folder(folder, repo_id, private=private, token=token, commit_message=commit_message)


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload adapter",
) -> str:
    """Upload what was saved in a folder; arguments, card and errors as in ``push_to_hub``."""
    from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
    from huggingface_hub.errors import EntryNotFoundError

    source, api = Path(folder), HfApi(token=token)
    with _answering(repo_id), tempfile.TemporaryDirectory() as temporary:
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        card = Path(temporary, "README.md")
        with contextlib.suppress(EntryNotFoundError):
            ModelCard.load(repository, token=token).save(card)
        if (source / card.name).exists():
            carry(source, card.parent, repository)
        files = {path.relative_to(source).as_posix(): path for path in sorted(source.rglob("*")) if path.is_file()}
        if card.exists():
            files[card.name] = card
        return api.create_commit(
            repo_id=repository,
            operations=[CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()],
            commit_message=commit_message,
        ).commit_url


@contextlib.contextmanager
def _answering(repo_id: str) -> Iterator[None]:
    """Turn what the Hub refuses, and a network that is not there, into one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    # The base class of all that its HTTP client raises, whichever client the Hub's library is built on.
    refused: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except (refused, HFValidationError, LocalTokenNotFoundError, ConnectionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise GuidedError(f"push: {repo_id}: {reason} (check name and network, or run: hf auth login)") from None
