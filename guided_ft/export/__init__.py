"""Leave guided_ft behind: a stock LoRA, a plain merged checkpoint, a GGUF file; or take the adapter to the Hub."""

from .gguf import to_gguf
from .hub import push_to_hub
from .lora import to_lora
from .merged import merged

__all__ = ["merged", "push_to_hub", "to_gguf", "to_lora"]
