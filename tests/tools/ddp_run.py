"""Train under torchrun: ``torchrun --nproc_per_node 2 ddp_run.py BASE OUT``; each rank writes what it trained."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import tiny
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from guided_ft import GuidedCallback, Task
from guided_ft.system.files import write_arrays, write_text


class Trainer(SFTTrainer):
    """All processes but the first are late with their part of a checkpoint."""

    def _save_rng_state(self, output_dir: str) -> None:
        if self.args.process_index:
            time.sleep(1)
        super()._save_rng_state(output_dir)


def main(base: str, out: str, per_device: int) -> None:
    callback = GuidedCallback(task=Task.from_dataset(tiny.sums(8), tiny.tokenizer()), budget="20%")
    args = SFTConfig(
        out,
        max_steps=4,
        save_steps=4,
        per_device_train_batch_size=per_device,
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    trainer = Trainer(
        model,
        args=args,
        train_dataset=Dataset.from_list(tiny.sums(24)),
        processing_class=tiny.tokenizer(),
        callbacks=[callback],
    )
    trainer.train()
    rank = os.environ.get("RANK", "0")
    trained = {n: p.detach().numpy() for n, p in trainer.model.named_parameters() if p.requires_grad}
    write_arrays(Path(out) / f"rank{rank}.safetensors", trained)
    write_text(Path(out) / f"rank{rank}.txt", f"{callback.plan.hash} {callback.certificate} {args.world_size}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
