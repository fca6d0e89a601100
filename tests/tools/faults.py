"""Every fault that was seen in use or under attack, and the tests that fail when it comes back.

``promises.py`` writes them into ``tests/README.md``; ``laws/test_promises.py`` checks that each test is there.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One of them.

    Args:
        seen: what went wrong, in a few words.
        tests: below ``tests``, as pytest names them.
    """

    seen: str
    tests: tuple[str, ...]


_ROW = "task/test_formats.py::test_what_is_no_row_is_refused"
_FILE = "task/test_formats.py::test_damaged_files_are_one_line"
_FUZZ = "laws/test_fuzz.py::test_nonsense_is_refused_in_one_line"
_OWN = "pipeline/test_own_formats.py"
_FOLDER = "pipeline/test_run_folder.py"
_FIRST = "pipeline/test_preflight.py::test_each_mistake_is_found_and_nothing_is_written"
_TEMPLATE = (
    "task/test_task.py::test_what_a_tokenizer_or_a_template_refuses_names_the_row",
    f"{_OWN}::test_a_template_that_refuses_a_row_is_told_first_with_the_row",
)
_CHECKPOINTS = (
    "callback/test_damaged_checkpoints.py::test_the_newest_whole_one_is_used_and_said",
    "callback/test_damaged_checkpoints.py::test_one_that_is_asked_for_is_refused_before_anything_is_loaded",
)

FAULTS: dict[str, tuple[Fault, ...]] = {
    "In use": (
        Fault(
            "1. A slice on an int8 base wrote into an output that belongs to the base",
            ("slice/test_slice_output.py::test_the_change_is_added_and_nothing_of_others_is_touched",),
        ),
        Fault(
            "2. Tools and template arguments were trained on, but not localized with or evaluated",
            (
                f"{_OWN}::test_tools_and_template_arguments_are_rendered_as_trl_does",
                f"{_OWN}::test_localized_trained_and_loaded_are_the_same_tokens",
                "pipeline/test_evaluate.py::test_chat_prompts_begin_as_they_do_in_training",
                f"{_OWN}::test_evaluation_asks_with_the_rows_tools",
            ),
        ),
        Fault(
            "3. A loss of the user's own saw the logits of labelled positions only",
            ("callback/test_readers.py::test_what_reads_logits_gets_all_of_them",),
        ),
        Fault(
            "4. A classifier was accepted, changed, and trained beside a random frozen head",
            (
                "anatomy/test_causal.py::test_other_heads_are_refused_by_class_in_every_way_in",
                "anatomy/test_causal.py::test_a_callback_leaves_a_classifier_alone",
            ),
        ),
        Fault(
            "5. Another plan's checkpoint: raw errors of optimizers and sizes",
            ("callback/test_damaged_checkpoints.py::test_a_checkpoint_of_another_plan_is_refused_by_that_name",),
        ),
        Fault(
            "6. Weights on disk: `Cannot copy out of meta tensor`",
            (
                "callback/test_offloaded.py::test_the_fingerprint_is_that_of_the_weights_on_disk",
                "callback/test_offloaded.py::test_frozen_layers_may_be_on_disk",
                "callback/test_offloaded.py::test_layers_that_train_may_not",
            ),
        ),
        Fault("7. Columns that belong to the question were dropped without a word", (_ROW,)),
        Fault("8. Messages, texts and templates that fail: raw errors without a row", (_ROW, *_TEMPLATE)),
        Fault("9. An unwanted answer of KTO counted as a wanted one", (_ROW,)),
        Fault(
            "10. A cause was told that was not checked: compiled models, second adapters, checkpoints, exact ablation",
            (
                "anatomy/test_causal.py::test_what_is_around_a_model_is_named",
                "plan/test_fits.py::test_a_second_attach_is_told_as_such",
                _CHECKPOINTS[0],
                "scorers/test_scorer_laws.py::test_a_model_that_overflows_makes_no_map_or_one_of_numbers",
            ),
        ),
        Fault(
            "11. Tests that could not fail; a cache's key, and a merge, that no test looked at",
            (
                "laws/test_tests.py::test_no_test_is_content_with_any_error",
                "laws/test_mutants.py::test_it_applies_and_still_is_python",
                "engine/test_keys.py::test_every_input_is_part_of_it",
                "engine/test_keys.py::test_another_model_in_the_same_folder_finds_nothing",
                "engine/test_keys.py::test_another_start_or_attention_in_the_same_folder_finds_nothing",
                "slice/test_slice_identity.py::test_a_merge_rounds_once",
            ),
        ),
        Fault(
            "12. Beyond the model's window: raw IndexError; wrong options refused only after a stage had run",
            (
                "pipeline/test_beyond_the_model.py::test_it_is_told_first",
                "pipeline/test_beyond_the_model.py::test_rows_beyond_the_window_are_told_first",
                "pipeline/test_beyond_the_model.py::test_in_a_script_too",
                _FIRST,
            ),
        ),
    ),
    "Silently wrong": (
        Fault(
            "13. Data or weights corrected in place: the old adapter, or a mixture",
            (
                "pipeline/test_fingerprint.py::test_the_content_of_whatever_is_named_counts",
                "pipeline/test_fingerprint.py::test_corrected_rows_are_trained_on_from_the_first_step",
                "pipeline/test_fingerprint.py::test_another_base_in_the_same_folder_is_trained_afresh",
            ),
        ),
        Fault(
            "14. Rows beyond `max_length` dropped or cut without a word, and counted as trained",
            (
                f"{_OWN}::test_rows_without_room_are_left_out_and_told",
                f"{_OWN}::test_a_run_counts_the_rows_that_it_trained_on",
                "task/test_task.py::test_rows_that_are_too_long_are_cut_or_left_out_as_in_the_trainer_and_that_is_told",
                "callback/test_guards.py::test_no_row_to_train_on_is_said",
            ),
        ),
        Fault(
            "15. Rows in two formats at once",
            (_ROW, "pipeline/test_data.py::test_a_row_that_the_trainer_cannot_take_is_named"),
        ),
        Fault(
            "16. With left padding the prefix cache changed the loss",
            (
                "engine/test_padding.py::test_the_losses_are_the_same_whatever_the_labels_read",
                "engine/test_padding.py::test_what_is_found_has_every_bit_also_where_there_is_no_token",
            ),
        ),
        Fault(
            "17. Two processes in one folder: one trained on the other's states, an adapter that is neither's",
            (
                "engine/test_engine.py::test_what_another_process_caches_is_left_alone",
                "system/test_sole.py::test_a_folder_that_another_process_holds_is_told_with_its_number",
                f"{_FOLDER}::test_a_second_run_in_a_folder_is_refused",
            ),
        ),
        Fault(
            "18. Exact match 0 where answers end in the EOS text, or are longer than what is generated",
            (
                "pipeline/test_evaluate.py::test_a_right_answer_may_end_in_the_text_of_a_special_token",
                "pipeline/test_own_data.py::test_the_answer_length_holds_the_longest_answer_and_shows_who_goes_on",
            ),
        ),
        Fault(
            "19. A key that no template shows put test prompts into the training set",
            ("pipeline/test_data.py::test_the_same_question_is_never_in_both_whatever_else_the_row_says",),
        ),
        Fault(
            "20. Values that are not finite were saved: fp16 on a CPU, the last step",
            (
                "callback/test_finite.py::test_fp16_on_a_cpu_keeps_the_guard_on",
                "callback/test_finite.py::test_what_the_last_step_made_is_looked_at",
                "callback/test_finite.py::test_a_rate_of_a_million_saves_numbers_or_stops",
            ),
        ),
        Fault(
            "21. A plan for another model was accepted",
            ("plan/test_fits.py::test_another_model_is_refused_with_the_difference",),
        ),
        Fault(
            "22. The adapter's file removed or cut: unchanged",
            (f"{_FOLDER}::test_what_a_stage_left_is_compared_by_content",),
        ),
    ),
    "Lost": (
        Fault(
            "23. A user's own `train/` and `adapter/` were deleted",
            (f"{_FOLDER}::test_a_folder_that_no_run_made_is_refused_untouched",),
        ),
        Fault(
            "24. A mistake, or another budget, took a finished run away",
            (
                f"{_FOLDER}::test_a_finished_run_stays_whole_until_its_successor_is",
                f"{_FOLDER}::test_a_replacement_that_is_killed_is_made_up_for",
            ),
        ),
    ),
    "Raw tracebacks": (
        Fault(
            "Columns or message keys of mixed types",
            (_ROW, f"{_OWN}::test_messages_whose_keys_are_of_mixed_types_are_told_first"),
        ),
        Fault("Huge numbers", (_ROW, _FILE)),
        Fault("Lone surrogates", (_ROW,)),
        Fault("`labels` and `images` columns", (_ROW,)),
        Fault("Broken templates", _TEMPLATE),
        Fault("An empty only prompt", (_ROW, "task/test_task.py::test_bad_rows_are_named")),
        Fault(
            "A prompt of 3 MB asked for 9 TB",
            ("task/test_task.py::test_a_prompt_of_megabytes_is_left_out_or_beyond_the_window", _FUZZ),
        ),
        Fault("`localize.options={seed: 1}`", (_FIRST,)),
        Fault(
            "Out of memory in localization",
            (
                "scorers/test_out_of_memory.py::test_the_scores_are_the_same",
                "scorers/test_out_of_memory.py::test_one_example_that_is_too_large_is_told",
            ),
        ),
        Fault(
            "A full disk: raw, without a path; a cache without room stopped the run",
            (
                "pipeline/test_full_disk.py::test_every_write_fails_once_and_the_bits_are_the_same",
                "pipeline/test_full_disk.py::test_whoever_is_refused_the_path_is_named",
                "engine/test_engine_store.py::test_a_full_disk_is_a_limit_and_where_nothing_fits_it_goes_on_without",
            ),
        ),
        Fault(
            "Damaged checkpoints in a script",
            (*_CHECKPOINTS, "pipeline/test_kill.py::test_a_checkpoint_cut_at_any_file_is_never_resumed_from"),
        ),
        Fault(
            "Damaged files of a run's folder",
            (
                _FUZZ,
                f"{_FOLDER}::test_a_record_that_was_changed_is_none",
                "system/test_artifact.py::test_json_that_is_not_ours",
                "report/test_report_files.py::test_a_wrong_value_is_named",
            ),
        ),
        Fault(
            "Damaged files of an adapter",
            (
                _FUZZ,
                "slice/test_slice_hostile.py::test_a_damaged_file_is_refused_by_name",
                "use/test_use.py::test_a_damaged_adapter_is_one_line",
            ),
        ),
    ),
    "Untidy": (
        Fault(
            "A refused recipe left a folder",
            (
                f"{_FOLDER}::test_a_refused_recipe_leaves_no_folder",
                "pipeline/test_beyond_the_model.py::test_rows_beyond_the_window_are_told_first",
            ),
        ),
        Fault(
            "Wrong budgets, kinds and layers told after two stages",
            ("pipeline/test_beyond_the_model.py::test_it_is_told_first", _FIRST),
        ),
        Fault("A refusal of damaged files without a mend", (_FUZZ,)),
        Fault(
            "A warm-up far beyond the steps",
            ("pipeline/test_own_data.py::test_a_warm_up_that_outlasts_the_training_is_told_first",),
        ),
    ),
}
