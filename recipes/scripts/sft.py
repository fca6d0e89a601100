"""TRL's SFT in its usual form; the line marked below is all that is added.

python sft.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --dataset_name trl-lib/Capybara \
    --output_dir out --max_steps 100
"""

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser

from guided_ft import GuidedCallback


def main() -> None:
    script, args, config = TrlParser((ScriptArguments, SFTConfig, ModelConfig)).parse_args_and_config()
    tokenizer = AutoTokenizer.from_pretrained(config.model_name_or_path)
    dataset = load_dataset(script.dataset_name, name=script.dataset_config)[script.dataset_train_split]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(config.model_name_or_path),
        args=args,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[GuidedCallback(task=dataset)],  # the one line
    )
    trainer.train()
    trainer.save_model(args.output_dir)


if __name__ == "__main__":
    main()
