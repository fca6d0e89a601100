"""Names for the parts of a model, and where in its weights each part lives."""

from .anatomy import Anatomy as Anatomy
from .behind import behind_attention as behind_attention
from .component import KINDS as KINDS
from .component import Component as Component
from .families import FAMILIES as FAMILIES
from .families import Family as Family
from .families import Rows as Rows
from .reading import bare as bare
from .reading import base_model as base_model
from .reading import original as original
from .reading import stored_weight as stored_weight
from .slices import Slice as Slice
