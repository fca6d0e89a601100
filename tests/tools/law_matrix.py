"""The table of laws: which hold on which architecture, and which are refused by name.

    python tests/tools/law_matrix.py    # writes tests/laws/LAWS.md; needs the package on the path

``test_law_matrix.py`` tests every cell: that the law holds, or that it is refused in these words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import families
import laws
import laws_of_files as files
import laws_of_merging as merging

PAGE = Path(__file__).parents[1] / "laws" / "LAWS.md"


@dataclass(frozen=True)
class Law:
    """One law.

    Args:
        says: the law, as a sentence about the adapter.
        check: asserts it for a family, with an empty folder to write to.
        refused: by family, what a GuidedError says instead.
        only: the families that it is tested on, where each takes long; empty: all.
    """

    says: str
    check: Callable[[str, Path], None]
    refused: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()

    def tested_on(self, family: str) -> bool:
        return not self.only or family in self.only

    @property
    def name(self) -> str:
        return self.check.__name__


_NO_ROWS = "gets its tokens without their rows, so adapters cannot be told apart (run one adapter at a time)"
_CLASSES = {"mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe", "olmoe": "Olmoe", "gpt_oss": "GptOss"}
_MIXED = {name: f"adapter_names: a {cls}Experts of this model {_NO_ROWS}" for name, cls in _CLASSES.items()}
_RANK = dict.fromkeys(families.MOE, "rank: expert neurons are trained in full only (leave rank out, or choose heads)")
_LORA = dict.fromkeys(
    families.MOE, "to_lora: model.layers.0.mlp.experts: a LoRA cannot hold neurons of experts (export.merged can)"
)

_COMPILED = ("llama", "gpt2", "mixtral")

LAWS: dict[str, tuple[Law, ...]] = {
    "Forward": (
        Law("At birth the logits are those of the base, bit for bit", laws.at_birth_it_is_the_base),
        Law("Disabled, the logits are those of the base, bit for bit", laws.disabled_it_is_the_base),
        Law("Every trained tensor has an effect", laws.every_part_has_an_effect),
        Law("Deltas are float32 on a bfloat16 or float16 base", laws.deltas_are_float32_on_any_base),
        Law("`inputs_embeds` gives the logits of the tokens", laws.embeddings_as_input),
        Law("`generate` uses it, with and without a cache", laws.generation_uses_it),
        Law("No hook is left behind", laws.no_hook_stays),
        Law("`torch.compile` changes neither logits nor gradients", laws.a_compiled_model_is_the_same, only=_COMPILED),
    ),
    "Training": (
        Law("Its gradient is the masked full gradient", laws.gradient_is_the_masked_full_gradient),
        Law("Only the deltas have gradients", laws.only_deltas_have_gradients),
        Law("20 steps of AdamW are masked full fine-tuning", laws.training_is_masked_full_fine_tuning),
        Law("Weight decay moves no tensor of the base", laws.weight_decay_moves_no_base_tensor),
        Law("Gradient checkpointing changes no gradient", laws.checkpointing_changes_no_gradient),
        Law("`modules_to_save` train, save, load and merge", laws.modules_to_save_train_and_come_back),
    ),
    "Merging": (
        Law("Merged, it computes the same", merging.merged_it_computes_the_same),
        Law(
            "Merging writes exactly its slices; unmerging is bit-exact (fp32, bf16, fp16)",
            merging.merging_writes_its_slices_and_unmerging_leaves_no_trace,
        ),
        Law(
            "Overlapping adapters merge to their sum and unmerge exactly",
            merging.overlapping_adapters_merge_to_their_sum,
        ),
        Law("`safe_merge` refuses NaN and infinity, and nothing moves", merging.safe_merge_refuses_nan_and_infinity),
        Law("`merge_and_unload` and `unload` leave the plain model", merging.merge_and_unload_leaves_the_plain_model),
    ),
    "Several adapters": (
        Law("Add, set, delete", merging.adapters_are_added_switched_and_deleted),
        Law("Deleting the active one activates another", merging.deleting_the_active_adapter_activates_another),
        Law("A mixed batch gives each row its own", merging.a_mixed_batch_gives_each_row_its_own, _MIXED),
        Law("The same, heads only", merging.a_mixed_batch_of_heads),
        Law(
            "Hot-swapping, weighted sums and `mixed=True` are refused, and nothing moves",
            merging.what_peft_keeps_to_its_own_methods,
        ),
    ),
    "Files": (
        Law("Saved and loaded, the same bits", files.a_saved_adapter_comes_back_in_the_same_bits),
        Law("Loaded with `is_trainable`, it trains on alike", files.a_loaded_adapter_trains_on),
        Law("`low_cpu_mem_usage` leaves nothing on the meta device", files.loading_leaves_nothing_on_the_meta_device),
        Law("`selected_adapters` saves only these", files.only_selected_adapters_are_saved),
        Law("`AutoPeftModel` and `AutoModel` load its folder", files.every_door_loads_it),
        Law("A state dict needs no pickle", files.a_state_dict_needs_no_pickle),
        Law("A deep copy is independent", files.a_deep_copy_is_independent),
        Law("A random draw repeats with its seed and reloads", files.a_random_draw_repeats_and_reloads),
    ),
    "Leaving": (
        Law("A merged checkpoint needs nothing of ours", files.a_merged_checkpoint_needs_nothing),
        Law("`to_lora` computes the same in stock PEFT", files.a_lora_computes_the_same, _LORA),
        Law("The same, heads only", files.a_lora_of_heads_computes_the_same),
    ),
    "Rank": (
        Law("With `rank`: birth, disabled, files, merging, export", files.a_rank_obeys_the_same_laws, _RANK),
        Law("The same, heads only", files.a_rank_of_heads_obeys_the_same_laws),
    ),
}
FAMILIES = (*families.NAMES, *families.MOE)


def text() -> str:
    """The table as the page says it."""
    lines = [
        "# Laws of the slice adapter",
        "",
        "Written by `python tests/tools/law_matrix.py`; every cell is a test in `test_law_matrix.py`. `x`: the law holds; a",
        "number: it is refused by name, in the words below; `-`: not tested, because it takes long. Where not said",
        "otherwise, heads (with and without their keys and values) and neurons (of experts, where there are any) are",
        "trained together.",
        "",
        f"| law | {' | '.join(FAMILIES)} |",
        f"| --- |{' :---: |' * len(FAMILIES)}",
    ]
    notes: list[str] = []
    for room, table in LAWS.items():
        lines.append(f"| **{room}** |{' |' * len(FAMILIES)}")
        for law in table:
            cells = []
            for name in FAMILIES:
                # One note for all families that say the same but for a class.
                words = law.refused.get(name, "").replace(f"{_CLASSES.get(name, '')}Experts", "[...]Experts")
                if words and words not in notes:
                    notes.append(words)
                cells.append(str(notes.index(words) + 1) if words else "x" if law.tested_on(name) else "-")
            lines.append(f"| {law.says} | {' | '.join(cells)} |")
    lines += ["", *(f"{i + 1}. `{words}`" for i, words in enumerate(notes))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
