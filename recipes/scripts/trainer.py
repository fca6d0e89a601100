"""A plain Hugging Face Trainer on a text file; the line marked below is all that is added.

python trainer.py --model HuggingFaceTB/SmolLM2-135M --file book.txt --output_dir out --max_steps 100
"""

from dataclasses import dataclass

from datasets import load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)

from guided_ft import GuidedCallback


@dataclass
class Text:
    model: str
    file: str
    max_length: int = 256


def main() -> None:
    text, args = HfArgumentParser((Text, TrainingArguments)).parse_args_into_dataclasses()
    tokenizer = AutoTokenizer.from_pretrained(text.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    lines = load_dataset("text", data_files=text.file, split="train").filter(lambda row: row["text"].strip())
    tokens = lines.map(
        lambda row: {"input_ids": tokenizer(row["text"], truncation=True, max_length=text.max_length)["input_ids"]},
        remove_columns="text",
    )
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(text.model),
        args=args,
        train_dataset=tokens,
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[GuidedCallback(task=lines)],  # the one line
    )
    trainer.train()
    trainer.save_model(args.output_dir)


if __name__ == "__main__":
    main()
