"""Train as ``trl sft`` and ``trl dpo`` do, with a GuidedCallback: no stages, no measuring, one folder of output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from ..callback.callback import GuidedCallback
from ..errors import GuidedError
from ..models import load_model
from ..task.read_file import ENDINGS, read_file
from ..task.reader import Reader, read_all
from ..task.tokenizer import load_tokenizer
from .retained import load_retained
from .trainers import dataset_of, make_arguments

if TYPE_CHECKING:
    from datasets import Dataset

    from ..recipe.trl_config import TrlConfig

_TRAINERS: dict[str, tuple[Any, Any]] = {"sft": (SFTTrainer, SFTConfig), "dpo": (DPOTrainer, DPOConfig)}

RETAINED = 8
"""Texts of what must be kept, per forward pass."""


def train(config: TrlConfig, trust_remote_code: bool = False) -> tuple[GuidedCallback, str]:
    """Train what a file says and save it in its ``output_dir``.

    Returns:
        The callback, with its plan and certificate, and the folder.

    Raises:
        GuidedError: for what TRL's arguments refuse, or data that cannot be read.
    """
    make, arguments = _TRAINERS[config.trainer]
    here = {} if torch.cuda.is_available() else {"use_cpu": True, "bf16": False}
    args = make_arguments(arguments, **here | config.arguments)
    rows = _rows(config)
    tokenizer = load_tokenizer(config.model_name_or_path, trust_remote_code=trust_remote_code)
    guided = config.guided
    length = getattr(args, "max_length", None) or 1024
    callback = GuidedCallback(
        task=rows,
        **guided.model_dump(exclude={"retain", "prefix_cache"}),
        retain=load_retained(guided.retain, tokenizer, length, RETAINED, guided.seed),
        prefix_cache=None if guided.prefix_cache == "none" else guided.prefix_cache,
    )
    trainer = make(
        load_model(
            config.model_name_or_path,
            dtype=config.dtype,
            quantization=config.quantization,
            trust_remote_code=trust_remote_code,
        ),
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model(args.output_dir)
    return callback, str(args.output_dir)


def _rows(config: TrlConfig) -> Dataset:
    name = config.dataset_name
    if name.lower().endswith(ENDINGS):
        return dataset_of(read_all(read_file(name), Reader(), name))
    from datasets import load_dataset

    try:
        return load_dataset(name, name=config.dataset_config, split=config.dataset_train_split)
    except Exception as error:  # datasets raises many kinds
        told = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise GuidedError(f"dataset_name: {name!r} cannot be loaded ({told[:160]})") from None
