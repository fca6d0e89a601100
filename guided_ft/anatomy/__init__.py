"""Names for the parts of a model, and where in its weights each part lives."""

from .anatomy import Anatomy as Anatomy
from .behind import behind_attention as behind_attention
from .component import KINDS as KINDS
from .component import Component as Component
from .families import FAMILIES as FAMILIES
from .family import PROVED_APART as PROVED_APART
from .family import Family as Family
from .family import Rows as Rows
from .forms import Form as Form
from .forms import alone as alone
from .forms import cut_alike as cut_alike
from .forms import form_of as form_of
from .forms import hidden_of as hidden_of
from .proof import Finding as Finding
from .proof import Proof as Proof
from .reading import bare as bare
from .reading import base_model as base_model
from .reading import decoder_of as decoder_of
from .reading import original as original
from .reading import own_parameters as own_parameters
from .reading import stored_weight as stored_weight
from .slices import Slice as Slice
from .trust import name_of as name_of
from .trust import on_trial as on_trial
from .trust import proved_by as proved_by
from .trust import remember as remember
