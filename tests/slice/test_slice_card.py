"""The model card of a saved adapter says what was trained and how to load it, and that works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import families
import laws
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError, LocalTokenNotFoundError
from peft import PeftModel
from transformers import AutoModelForCausalLM

from guided_ft import Plan, Selection
from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.export import push_to_hub
from guided_ft.slice import SliceConfig, card


def plan_of(model, text: str = "L0.H1 L0.N3 L1.N5", **options) -> Plan:
    how = {"method": "attribution", "strategy": "top", "budget": "2%", "text": "not said"}
    chosen = Selection.parse(text, Anatomy.of(model)).components
    return Plan(Selection(Anatomy.of(model), chosen, how), **options)


def part(text: str) -> str:
    """Our part of a card; it occurs once."""
    assert (text.count(card.BEGIN), text.count(card.END)) == (1, 1)
    return text[text.index(card.BEGIN) : text.index(card.END)]


def saved(folder: Path, **options) -> tuple[PeftModel, str]:
    families.make("llama").save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base", attn_implementation="eager")
    peft_model = plan_of(base, **options).attach(base).eval()
    for p in laws.deltas(peft_model).values():
        torch.nn.init.normal_(p, std=0.1)
    peft_model.save_pretrained(folder / "adapter")
    return peft_model, (folder / "adapter" / "README.md").read_text()


def test_it_says_what_was_trained(tmp_path):
    peft_model, text = saved(tmp_path)
    count = sum(p.numel() for p in peft_model.parameters() if p.requires_grad)
    total = Anatomy.of(peft_model).num_parameters
    said = part(text)
    assert f"of the weights of `{tmp_path / 'base'}`; everything else is the base model's." in said
    assert (
        f"- trained: 1 head, 2 neurons: {count:,} of {total:,} parameters ({count / total:.3%}); "
        "chosen by method attribution, strategy top, budget 2%\n" in said
    )
    assert "- where: 8 modules in 2 layers (`slices` in adapter_config.json)\n- mode: slice\n" in said
    data = ModelCard(text).data
    assert (data.library_name, data.base_model) == ("peft", None), "the Hub knows no folder of this machine"
    assert "guided_ft" in data.tags
    assert "transformers" in data.tags, "PEFT's own tags are kept"
    assert not [tag for tag in data.tags if tag.startswith("base_model")]


def test_it_is_short_and_nothing_is_left_to_fill_in(tmp_path):
    _, text = saved(tmp_path)
    assert "[More Information Needed]" not in text
    assert text.count("\n# ") == 1
    assert "\n# Slice adapter of base\n" in text
    assert re.search(r"### Framework versions\n\n- PEFT [\d.]+", text)
    assert len(text.splitlines()) < 40


def test_a_base_of_the_hub_is_told_to_the_hub(tmp_path):
    peft_model = laws.attached("llama")
    peft_model.peft_config["default"].base_model_name_or_path = "owner/some-model"
    peft_model.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert ModelCard(text).data.base_model == "owner/some-model"
    assert 'PeftModel.from_pretrained(guided_ft.load_model("owner/some-model"), "FOLDER OR' in part(text)


def test_with_a_rank(tmp_path):
    peft_model, text = saved(tmp_path, rank=2)
    count = sum(p.numel() for p in peft_model.parameters() if p.requires_grad)
    assert f"1 head, 2 neurons: {count:,} of " in part(text)
    assert "- mode: slice, as products of rank 2\n" in part(text)


def test_its_code_loads_the_adapter(tmp_path):
    peft_model, text = saved(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", part(text), re.DOTALL)
    code = code.replace("FOLDER OR REPOSITORY OF THIS CARD", str(tmp_path / "adapter"))
    (tmp_path / "ids.json").write_text(json.dumps(families.tokens().tolist()))
    code += (
        f"\nimport json, torch\nids = torch.tensor(json.load(open({str(tmp_path / 'ids.json')!r})))\n"
        "print(json.dumps(model(input_ids=ids).logits.tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    assert laws.distance(found, families.logits(peft_model)) <= laws.MERGED


def test_without_its_first_line_peft_raises_what_it_says(tmp_path):
    _, text = saved(tmp_path)
    code = f"from peft import PeftConfig; PeftConfig.from_pretrained({str(tmp_path / 'adapter')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stderr.splitlines()[-1] == "KeyError: 'SLICE'"
    assert "without this line PEFT knows no such adapter (KeyError: 'SLICE')" in part(text)


@pytest.mark.parametrize(("name", "lora"), [("llama", True), ("mixtral", False)])
def test_it_names_the_exports_that_there_are(name, lora, tmp_path):
    laws.attached(name).save_pretrained(tmp_path)
    said = part((tmp_path / "README.md").read_text())
    assert "guided_ft.export.merged(model, folder)" in said
    assert ("to_lora" in said) == lora
    assert "without guided_ft.\n" in said


def test_saving_again_renews_its_part_and_keeps_what_people_wrote(tmp_path):
    laws.attached("llama").save_pretrained(tmp_path)
    path = tmp_path / "README.md"
    first = path.read_text()
    mine = first.replace("# Slice adapter of a model", "# My sums").replace(card.END, f"{card.END}\n\nMy own words.")
    assert mine.count("My ") == 2
    path.write_text(mine)
    laws.attached("llama", rank=2).save_pretrained(tmp_path)
    again = path.read_text()
    assert "of rank 2" in part(again)
    assert "of rank 2" not in first
    assert "# My sums\n" in again
    assert "My own words." in again
    laws.attached("llama", rank=2).save_pretrained(tmp_path)
    assert path.read_text() == again


def test_every_adapters_folder_has_a_card(tmp_path):
    laws.two_adapters("llama").save_pretrained(tmp_path)
    texts = [(folder / "README.md").read_text() for folder in (tmp_path, tmp_path / "other")]
    assert all(part(text) for text in texts)
    assert ModelCard(texts[1]).data.library_name == "peft"


def test_a_draw_says_so_and_a_lone_configuration_has_no_card(tmp_path):
    config = SliceConfig(target_modules=["up_proj"], fraction=0.25, seed=3)
    config.save_pretrained(tmp_path)
    assert not (tmp_path / "README.md").exists()
    from peft import get_peft_model

    get_peft_model(families.make("llama"), config).save_pretrained(tmp_path)
    assert "- trained: 0.25 of the rows, drawn at random with seed 3\n" in part((tmp_path / "README.md").read_text())


# -- the Hub, without a network ------------------------------------------------------------------------------------------
@pytest.fixture
def hub(monkeypatch):
    """A repository that keeps what is uploaded: text by file name."""
    files: dict[str, str] = {}

    def load(name, **options):
        if Path(name).exists():
            return ModelCard(Path(name).read_text())
        if "README.md" not in files:
            raise EntryNotFoundError("no card", SimpleNamespace(headers={}, request=None))
        return ModelCard(files["README.md"])

    def commit(self, *, repo_id, operations, **options):
        assert repo_id == "me/sums"
        files.update({o.path_in_repo: Path(o.path_or_fileobj).read_bytes().decode("latin-1") for o in operations})
        return SimpleNamespace(commit_url="https://commit")

    monkeypatch.setattr(ModelCard, "load", load)
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(HfApi, "create_commit", commit)
    return files


def test_pushing_uploads_the_adapter_and_its_card(hub):
    peft_model = laws.attached("llama")
    assert push_to_hub(peft_model, "me/sums") == "https://commit"
    assert set(hub) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert part(hub["README.md"])
    assert 'PeftModel.from_pretrained(base_model, "me/sums")' in hub["README.md"], "its address is filled in"
    hub["README.md"] = hub["README.md"].replace("Slice adapter of a model", "My sums")
    push_to_hub(laws.attached("llama", rank=2), "me/sums")
    assert "# My sums\n" in hub["README.md"], "the repository's own words are kept"
    assert "of rank 2" in part(hub["README.md"])
    peft_model.push_to_hub("me/sums")
    assert "# My sums\n" in hub["README.md"]
    assert part(hub["README.md"]), "PEFT's own push keeps a card that is there"


def test_a_hub_that_refuses_is_one_line(hub, monkeypatch):
    def refuse(self, repo_id, **options):
        raise LocalTokenNotFoundError("Token is required,\nbut no token found.")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(GuidedError) as error:
        push_to_hub(laws.attached("llama"), "me/sums")
    said = "push: me/sums: Token is required, but no token found. (check name and network, or run: hf auth login)"
    assert str(error.value) == said
    assert not hub


def test_only_adapters_are_pushed(hub):
    with pytest.raises(GuidedError, match="has no adapter"):
        push_to_hub(families.make("llama"), "me/sums")
    assert not hub
