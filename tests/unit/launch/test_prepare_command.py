"""What `longhaul prepare` shows: what became of the samples, and why one of them is kept or dropped."""

import io
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from launch.ahead import show_funnels
from launch.cli import app
from launch.screen import Screen
from orchestrator.core.errors import BadInput
from orchestrator.prepare.funnel import Funnel
from orchestrator.prepare.others import find_others
from orchestrator.prepare.run import prepare
from tests.fakes.copies import NEAR, config_of
from tests.fakes.shards import write_texts

TEXT = " ".join(f"word{i}" for i in range(40)) + " "
TEXTS = {"kept": TEXT + "by night", "near": TEXT + "by day", "other": "nothing like it at all in these words"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    write_texts(root / "data" / "0.tar", TEXTS | {"näher [1]": TEXT + "by [bold]day[/bold]"})
    config = config_of(root, NEAR)
    prepare(config)
    (root / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    return root


def explain(root: Path, *arguments: str) -> str:
    command = ["prepare", str(root / "config.yaml"), "--explain", *arguments]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "80"}, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_kept_sample_is_explained_without_its_text(prepared: Path) -> None:
    assert explain(prepared, "data/0.tar/kept") == "data/0.tar/kept [train] kept\n"


def test_a_near_duplicate_is_explained_with_partner_similarity_and_texts_as_they_are(prepared: Path) -> None:
    said = explain(prepared, "näher [1]", "--text").splitlines()
    assert said == [
        f"data/0.tar/näher [1] [train] dropped: near duplicate, of data/0.tar/kept, similarity {37 / 41:.4f}",
        "--- data/0.tar/näher [1]",
        TEXT + "by [bold]day[/bold]",
        "--- data/0.tar/kept",
        TEXT + "by night",
    ]


def test_an_explanation_as_data_has_texts_when_asked_only(prepared: Path) -> None:
    (one,) = json.loads(explain(prepared, "near", "--json"))["samples"]
    assert (one["rule"], one["partner"], one["text"], one["partner_text"]) == (
        "near duplicate", "data/0.tar/kept", None, None,
    )  # fmt: skip
    assert json.loads(explain(prepared, "near", "--json", "--text"))["samples"][0]["text"] == TEXTS["near"]


def test_an_unknown_sample_is_refused_with_what_a_name_looks_like(prepared: Path) -> None:
    with pytest.raises(BadInput, match="no prepared sample is named 'data/0.tar/nobody'") as caught:
        explain(prepared, "data/0.tar/nobody")
    assert caught.value.exit_code == 2
    assert "give shard/key" in caught.value.remedy


def test_nothing_is_explained_before_it_is_prepared(prepared: Path) -> None:
    with pytest.raises(BadInput, match="nothing is prepared yet") as caught:
        explain(prepared, "kept", "data.split.validation=0.5")
    assert caught.value.remedy == "run longhaul prepare first"


def show(funnels: list[Funnel]) -> str:
    file = io.StringIO()
    show_funnels(funnels, Screen(Console(file=file, width=80)))
    return file.getvalue()


def make_funnel(source: str, split: str, dropped: dict[str, int], samples: int = 12_345_678_901) -> Funnel:
    kept = samples - sum(dropped.values())
    return Funnel(source=source, split=split, samples=samples, dropped=Counter(dropped), kept=kept, tokens=kept * 300)


def test_funnels_of_many_sources_and_splits_stay_readable_at_80_columns() -> None:
    dropped = {"near duplicate": 1_234_567_890, "gopher_repetition": 1}
    sources = ["web [2024]", "a-source-with-a-long-name-" + "x" * 60, "books"]
    said = show([make_funnel(source, split, dropped) for source in sources for split in ("train", "validation", "test")])
    assert max(map(len, said.splitlines())) <= 80
    assert said.count("-1,234,567,890") == said.count("3,333,333,303,000") == 9
    assert "web [2024]" in said
    assert sources[1] in "".join(line.split(" ")[0] for line in said.splitlines())


def test_a_funnel_shows_only_what_happened() -> None:
    assert show([make_funnel("web", "train", {})]) == ""
    said = show([make_funnel("web", "train", {"length": 2}, 10), make_funnel("web", "test", {}, 3)])
    assert [line.split() for line in said.splitlines()] == [
        ["web", "train", "test"], ["in", "10", "3"], ["length", "-2"], ["kept", "8", "3"], ["tokens", "2,400", "900"],
    ]  # fmt: skip


def test_preparations_of_the_same_sources_by_other_rules_are_found(prepared: Path) -> None:
    def config(section: object, name: str = "data") -> object:
        return config_of(prepared, section, train=[{"path": str(prepared / "data"), "name": name}], work=work)

    work = str(prepared / "many")
    first = prepare(config(NEAR))
    assert find_others(first) == []
    second, elsewhere = prepare(config({"dedup": {}})), prepare(config(NEAR, "renamed"))
    folders = [manifest.work.chain(manifest.chain) for manifest in (first, second)]
    (folders[0].parent / "begun").mkdir()
    assert (find_others(first), find_others(second)) == ([folders[1]], [folders[0]])
    assert find_others(elsewhere) == []
