import sys

import pytest

from orchestrator.core.dotted import CODE_FOLDER, find_function, is_dotted, look_for_code_in
from orchestrator.core.errors import ConfigError


@pytest.mark.parametrize("name", ["os.path:join", "os.path.join"])
def test_a_function_is_found_by_either_spelling(name):
    assert find_function(name, "data.x")("a", "b") == "a/b"


@pytest.mark.parametrize(
    "name", ["mine:<lambda>", "mine.outer.<locals>.inner", "__main__:f", "f", "a:b:c", "a..b", ":f", ""]
)
def test_what_other_processes_cannot_import_is_refused(name):
    with pytest.raises(ConfigError, match="is no function that other processes can import"):
        find_function(name, "data.x")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("os.path:jion", "'os.path:jion' cannot be imported: AttributeError"),
        ("no_such.module:f", "'no_such.module:f' cannot be imported: ModuleNotFoundError: No module named 'no_such'"),
        ("os.path:sep", "'os.path:sep' is a str, not a function"),
    ],
)
def test_a_name_that_leads_nowhere_tells_the_key_and_the_reason(name, said):
    with pytest.raises(ConfigError) as caught:
        find_function(name, "data.transforms.0.name")
    assert str(caught.value).startswith(f"data.transforms.0.name: {said}")
    assert caught.value.remedy


def test_a_module_that_fails_when_imported_is_told_with_its_own_words(tmp_path, monkeypatch):
    (tmp_path / "broken_module_of_a_user.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="RuntimeError: no licence"):
        find_function("broken_module_of_a_user:f", "data.x")


def test_table_names_are_not_dotted():
    assert [is_dotted(name) for name in ("resize", "a.b", "a:b")] == [False, True, True]


def test_modules_in_the_code_folder_are_found_and_take_no_installed_ones_place(tmp_path, monkeypatch):
    monkeypatch.setenv(CODE_FOLDER, "")
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "module_of_a_user.py").write_text("def answer():\n    return 42\n")
    (tmp_path / "colorsys.py").write_text("def rgb_to_hsv(*_):\n    return 'mine'\n")
    with pytest.raises(ConfigError, match="No module named 'module_of_a_user'"):
        find_function("module_of_a_user:answer", "data.x")
    look_for_code_in(str(tmp_path))
    assert find_function("module_of_a_user:answer", "data.x")() == 42
    assert find_function("colorsys:rgb_to_hsv", "data.x")(0, 0, 0) == (0.0, 0.0, 0)
