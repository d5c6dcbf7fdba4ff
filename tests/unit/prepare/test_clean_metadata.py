"""Rules about the json member, and the rule that asks a language model of the user's."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError, DataError
from orchestrator.core.mapping import run_serially
from orchestrator.prepare.clean.language import language
from orchestrator.prepare.clean.metadata import field
from orchestrator.prepare.clean.sample import Unfit, read_meta
from orchestrator.prepare.clean.text import Text
from orchestrator.prepare.rules import Rules
from orchestrator.prepare.run import prepare
from tests.fakes.copies import config_of
from tests.fakes.shards import write_texts

META = {"licence": "mit", "source": {"name": "web", "score": 3}, "tags": ["a", "b"], "none": None, "ok": True}


def test_what_is_allowed_or_not_denied_stays() -> None:
    assert field(META, "licence", allow=["mit", "bsd"]) is None
    assert field(META, "licence", deny=["gpl"]) is None
    assert field(META, "source.score", allow=[3]) is None
    assert field(META, "none", allow=[None]) is None
    assert field(META, "ok", allow=[True]) is None


def test_what_is_denied_or_not_allowed_goes_with_its_value() -> None:
    assert field(META, "licence", allow=["bsd"]) == Unfit("licence is mit, which is not allowed")
    assert field(META, "source.name", deny=["web"]) == Unfit("source.name is web, which is denied")
    assert field(META, "licence", allow=["mit"], deny=["mit"]) == Unfit("licence is mit, which is denied")


def test_every_element_of_a_list_counts() -> None:
    assert field(META, "tags", allow=["a", "b", "c"]) is None
    assert field(META, "tags", allow=["a"]) == Unfit("tags is b, which is not allowed")
    assert field(META, "tags", deny=["b"]) == Unfit("tags is b, which is denied")


@pytest.mark.parametrize("key", ["author", "source.author", "licence.name", "tags.0"])
def test_a_sample_without_the_key_goes_unless_it_may_stay(key: str) -> None:
    assert field(META, key, allow=["x"]) == Unfit(f"it has no {key}")
    assert field(META, key, allow=["x"], missing="keep") is None


def test_a_json_member_without_an_object_is_none() -> None:
    assert read_meta(b'{"a": 1}') == {"a": 1}
    assert read_meta(memoryview(b'{"a": "\xc3\xa9"}')) == {"a": "é"}
    for data in (None, b"", b"[1]", b"{", b'{"a": "\xff"}', b"NaN"):
        assert read_meta(data) is None


class FakeModel:
    def __init__(self, path: str) -> None:
        self.path = path

    def predict(self, text: str, k: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
        if "\n" in text:
            raise ValueError("predict processes one line at a time")
        if not text:
            return (), ()
        scores = {"de": 0.7, "en": 0.3} if "und" in text else {"en": 0.65, "de": 0.1}
        return tuple(f"__label__{name}" for name in scores), tuple(scores.values())


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    fake: Any = ModuleType("fasttext")
    fake.load_model = FakeModel
    monkeypatch.setitem(sys.modules, "fasttext", fake)
    path = tmp_path / "lid.bin"
    path.touch()
    return str(path)


def test_the_languages_asked_for_stay(model: str) -> None:
    assert language(Text("dies\nund das"), model, ["de"]) is None
    assert language(Text("this and that"), model, ["en"], threshold=0.6) is None
    said = language(Text("dies und das"), model, ["en", "fr"])
    assert said == Unfit("most likely de 0.70; en 0.30, fr 0.00, not above 0.65")
    assert language(Text("this and that"), model, ["en"]) == Unfit("most likely en 0.65; en 0.65, not above 0.65")
    assert language(Text(""), model, ["en"]) == Unfit("no language is recognised, so it is not en")


def test_a_missing_model_is_named(model: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no model .*lid\.bin\.gone"):
        language(Text("x"), f"{model}.gone", ["en"])


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(ConfigError, match="pip install fasttext-numpy2-wheel"):
        language(Text("x"), str(tmp_path / "never"), ["en"])


def language_config(root: Path, model: str) -> RunConfig:
    return config_of(root, {"clean": [{"name": "language", "args": {"model": model, "languages": ["de"]}}]})


def test_what_a_model_holds_is_part_of_the_rules_and_where_it_lies_is_not(model: str, tmp_path: Path) -> None:
    first = Rules.of(language_config(tmp_path, model)).id
    moved = Path(model).rename(tmp_path / "moved.bin")
    assert Rules.of(language_config(tmp_path, str(moved))).id == first
    moved.write_bytes(b"another")
    assert Rules.of(language_config(tmp_path, str(moved))).id != first


def test_a_model_that_is_another_on_some_machine_is_refused(model: str, tmp_path: Path) -> None:
    write_texts(tmp_path / "data" / "0.tar", {"a": "dies und das", "b": "this and that"})

    def run_elsewhere(function: Any, jobs: Any) -> Any:
        Path(model).write_bytes(b"another")
        return run_serially(function, jobs)

    with pytest.raises(DataError, match="let all machines read the same model"):
        prepare(language_config(tmp_path, model), run_elsewhere)
