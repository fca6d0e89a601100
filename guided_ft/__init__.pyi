from . import export as export
from .anatomy import Anatomy as Anatomy
from .anatomy import Component as Component
from .callback import GuidedCallback as GuidedCallback
from .errors import GuidedError as GuidedError
from .models import load_model as load_model
from .models import load_tokenizer as load_tokenizer
from .pipeline.pipeline import run as run
from .plan.plan import Plan as Plan
from .proofs import prove as prove
from .recipe.recipe import Recipe as Recipe
from .scorers.directions import localize_directions as localize_directions
from .scorers.faithfulness import faithfulness as faithfulness
from .scorers.localize import localize as localize
from .selection.budget import select as select
from .selection.directions import DirectionMap as DirectionMap
from .selection.scoremap import ScoreMap as ScoreMap
from .selection.selection import Selection as Selection
from .selection.spend import select_directions as select_directions
from .selection.subspace import Subspace as Subspace
from .slice import SliceConfig as SliceConfig
from .task.task import Task as Task

__version__: str
