"""What ``guided-ft estimate`` refuses, and how."""

from __future__ import annotations

import families
import pytest
from estimates import config_of

from guided_ft.anatomy import Anatomy
from guided_ft.cli import main
from guided_ft.errors import GuidedError
from guided_ft.estimate.estimate import LARGEST, estimate, readable
from guided_ft.plan.modes.typical import spread


def refusal(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(["estimate", *arguments])
    out, err = capsys.readouterr()
    assert (left.value.code, out, err.count("\n")) == (2, "", 1), err
    return err.rstrip("\n")


def test_mistakes_are_one_line_and_exit_code_2(capsys, tmp_path):
    config_of("llama").save_pretrained(tmp_path)
    folder = str(tmp_path)
    lots = "budget: cannot read 'lots' (write '2%', 0.02 or a number of parameters)"
    assert refusal(capsys, folder, "--budget", "lots") == lots
    assert refusal(capsys, folder, "--budget", "200%").startswith("budget: '200%' is not above 0 and at most the whole")
    assert refusal(capsys, folder, "--budget", "99999999").startswith("budget: '99999999' is not above 0 and at most")
    assert refusal(capsys, folder, "--dtype", "nf5") == "dtype: unknown value 'nf5' (did you mean 'nf4'?)"
    assert refusal(capsys, folder, "--labelled", "0") == (
        "labelled: 0.0 is not a share above 0 and at most 1 (write 0.3)"
    )
    assert refusal(capsys, folder, "--batch", "0").startswith("guided-ft estimate: Invalid value for '--batch': ")
    lot = "is more than the 100,000,000 that can be worked out (lower it)"
    assert refusal(capsys, folder, "--length", f"{10**12}") == f"batch times length: 8,000,000,000,000 {lot}"
    assert refusal(capsys, folder, "--batch", f"{10**20}") == f"batch times length: {128 * 10**20:,} {lot}"
    assert refusal(capsys, folder, "--rank", f"{10**20}") == f"rank: {10**20:,} {lot}"
    assert refusal(capsys, "no/such/model").startswith("model: 'no/such/model' cannot be loaded (")
    assert refusal(capsys, "no.yaml") == "no.yaml: cannot be read: No such file or directory (check the path)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be loaded"),
        ("{}", "cannot be loaded"),
        ('{"model_type": "nonsense"}', "cannot be loaded"),
        ('{"model_type": "bert"}', "architecture 'bert' is unknown"),
        ('{"model_type": "t5"}', "makes no causal LM"),
        ('{"model_type": "llama", "hidden_size": -8}', "cannot be loaded"),
        ('{"model_type": "llama", "num_attention_heads": 0}', "cannot be loaded"),
        ('{"model_type": "llama", "intermediate_size": -8}', "makes no causal LM"),
        (
            '{"model_type": "llama", "num_key_value_heads": 5}',
            "the layout 'llama' does not fit this config: 32 heads in 5 groups",
        ),
        ('{"model_type": "llama", "num_hidden_layers": 0}', "a configuration without layers (num_hidden_layers is 0)"),
        ('{"model_type": "gpt2", "n_layer": -1}', "a configuration without layers (num_hidden_layers is -1)"),
    ],
)
def test_a_configuration_that_is_none_is_one_line_and_exit_code_2(capsys, tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    assert said in refusal(capsys, str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (99400, "99.4 kB"),
        (538060032, "538 MB"),
        (999600000, "1 GB"),
        (2313000000, "2.31 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes_are_readable(size, text):
    assert readable(size) == text


def test_the_largest_step_is_worked_out(tmp_path):
    config_of("llama").save_pretrained(tmp_path)
    for rows, length in ((1, LARGEST), (LARGEST, 1)):
        assert estimate(str(tmp_path), rows=rows, length=length, rank=LARGEST).rows[0].memory.peak > 0


def test_an_empty_choice_is_refused():
    with pytest.raises(GuidedError, match="buys no neuron"):
        spread(Anatomy.of(families.make("llama")), 95, range(2))
