"""What a test sees of a model with plain hooks, one example at a time."""

from __future__ import annotations

import numpy as np
import torch

from guided_ft.anatomy import Anatomy


class Watch:
    """What the test sees with plain hooks, one example at a time: no padding, no batches."""

    def __init__(self, model, task, position: int = 0) -> None:
        self.anatomy = a = Anatomy.of(model)
        self.texts: list[dict] = []
        with torch.no_grad():
            for example in task.examples:
                seen: dict = {}
                handles = []

                def keep(key, seen=seen):
                    def hook(module, args, kwargs, output):
                        seen[key] = (args[0] if args else kwargs["hidden_states"], output)

                    return hook

                for i in range(a.num_layers):
                    names = {"z": a.out_module(i), "post": a.down_module(i), "layer": a.layer_module(i)}
                    names |= {n: a.module(i, n) for n in a.shapes}
                    names["attention"] = a.out_module(i).rsplit(".", 1)[0]
                    for key, name in names.items():
                        module = model.get_submodule(name)
                        handles.append(module.register_forward_hook(keep((key, i)), with_kwargs=True))
                ids = torch.tensor([example[position].ids])
                seen["logits"] = model(input_ids=ids).logits[0]
                seen["labels"] = torch.tensor(example[position].labels)
                for handle in handles:
                    handle.remove()
                self.texts.append(seen)

    def each(self, kind, i):
        """Activations of each text: ``[tokens, components, width]``."""
        a = self.anatomy
        for text in self.texts:
            before, after = text["layer", i]
            after = after[0] if isinstance(after, tuple) else after
            x = {"head": text["z", i][0], "neuron": text["post", i][0], "layer": after - before}[kind]
            x = x.reshape(-1, x.shape[-1])
            yield x.unflatten(-1, (a.size(kind), -1)).double()

    def tokens(self, kind, i, first=1):
        """All tokens but the first of each text: ``[tokens, components, width]``."""
        return torch.cat([x[first:] for x in self.each(kind, i)])

    def table(self, kind, of):
        return np.stack([of(i).numpy().reshape(-1) for i in range(self.anatomy.num_layers)]).squeeze()


def close(found, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
