"""What makes a step cheap: the head and the lower layers do only what training needs. The flow of one step::

    batch: input_ids, labels
      |
      |    prefix.py   the forward of the decoder, wrapped. Frozen layers below the first trained one:
      |                  a row that is known   -> its states are read from the file (store.py)
      |                  a row that is new     -> computed without a graph, and written there
      v
    first trained layer ... last layer          the model's own code; the only layers that keep a graph
      |
      |    labelled.py  the last layer behind attention, and the head, wrapped: labelled positions only
      v
    logits [1, scored, vocabulary] -> loss -> back-propagation, down to the first trained layer

``engine.py`` opens both when a training begins and closes them when it ends, also by an error.
"""

from .engine import Engine, close_left_open

__all__ = ["Engine", "close_left_open"]
