"""The slice adapter: a PEFT method that trains chosen rows or columns of weight matrices, and only these.

Importing this package registers it with PEFT, so that ``AutoPeftModelForCausalLM.from_pretrained`` and
``PeftModel.from_pretrained`` can load a saved slice adapter.
"""

from .config import SliceConfig as SliceConfig
from .experts import SliceExperts as SliceExperts
from .layer import SliceLayer as SliceLayer
from .model import SliceModel as SliceModel
from .register import register

register()
