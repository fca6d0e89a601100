"""What each method costs and is for. Imports no torch.

The cost is that of the default options, in forward (F) and backward (B) passes over the task; a two-sided map takes as
many over the retain set. ``weights too``: gradients of the weights are made and held.
"""

GUIDE: dict[str, tuple[str, str]] = {
    "ablation": ("1 F for each component", "the truth: for heads, or to check the top of another map (option verify)"),
    "attribution": ("1 F+B", "the default: an estimate of ablation, all components at once"),
    "integrated_gradients": (
        "6 F+B",
        "like attribution, where the model is so sure of its answers that gradients vanish",
    ),
    "eap": ("1 F+B (of pairs: 2)", "pairs of prompts that differ in one thing: which heads pass it on"),
    "gradient": ("1 F+B, weights too", "what the first steps of training would change"),
    "gradient_norm": ("1 F+B, weights too", "the same of the mean over all examples: what they share"),
    "snip": ("1 F+B, weights too", "what to keep when the rest is pruned"),
    "fisher": ("1 F+B", "like gradient, example by example, in the memory of activations"),
    "coherence": ("1 F+B, weights too", "where the examples ask for the same change"),
    "natural_gain": ("1 F+B of each set, weights too", "to learn and forget little; takes a retain set"),
    "gates": ("20 steps of training", "a small set that carries the task together"),
    "movement": ("4 steps of training", "what training moves, step by step"),
    "activation": ("1 F", "what is in use on a kind of text, whatever the answer"),
    "frequency": ("1 F", "neurons of a language or a topic: against text without it"),
    "sink": ("1 F", "heads that rest on the first tokens: to leave them out"),
    "massive": ("1 F", "outliers: to leave them out"),
    "block_influence": ("1 F", "layers that change little: to freeze or drop them"),
    "angular": ("1 F", "the same, as an angle"),
    "wanda": ("1 F", "what to keep when the rest is pruned, without gradients"),
    "direct_logit": ("1 F", "components that write the answer themselves"),
    "logit_lens": ("1 F", "how the answer builds up from layer to layer"),
    "execution_depth": ("1 F", "the layer from which on the rest may be frozen"),
    "sensitivity": ("1 F, and 1 F for each layer", "layers that must not be disturbed"),
    "probe": ("2 F of each set", "where a property of the text can be read off"),
    "contrast": ("1 F of each set", "a style or behaviour against its opposite"),
    "specificity": ("1 F of each set", "languages or domains against each other"),
    "magnitude": ("none", "a control that sees no data"),
    "low_rank": ("an SVD of each matrix", "a control that sees no data, less its noise"),
    "stable_rank": ("an SVD of each matrix", "how many directions a component uses, without data"),
    "tail_exponent": ("an SVD of each matrix", "how heavy the tail of a layer's spectrum is, without data"),
    "random": ("none", "the control of every claim"),
}
