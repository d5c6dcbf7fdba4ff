"""Files, overlays and command line -> one config or one list of problems."""

from pathlib import Path

import pytest

from orchestrator.config.load import Loaded, load_config
from orchestrator.core.errors import ConfigError

SMALLEST = """\
name: small
data: {train: [{path: data/text}]}
prepare: {tokens: {train_bpe: 512}}
model: {transformers: {model_type: llama}}
train: {steps: 10, global_batch: 4}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file into the working folder; messages then carry its bare name."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, text: str) -> Path:
        Path(name).write_text(text)
        return Path(name)

    return write_file


@pytest.fixture
def load_text(write):
    def load(text: str, *sets: str) -> Loaded:
        return load_config(write("run.yaml", text), sets=sets)

    return load


def problems_of(call, *arguments) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return str(caught.value).splitlines()


def test_defaults_fill_what_the_file_leaves_out(load_text):
    loaded = load_text(SMALLEST)
    assert loaded.config.optim.name == "adamw"
    assert str(loaded.provenance["optim.name"]) == "default"
    assert str(loaded.provenance["train.steps"]) == "run.yaml:5"


def test_three_mistakes_are_reported_together_with_their_lines(load_text):
    text = SMALLEST.replace("steps: 10", "stesp: 10") + "optim: {lr: -1}\nschedule:\n  name: cosin\n"
    assert problems_of(load_text, text) == [
        "run.yaml:5: train.stesp: unknown key; did you mean 'steps'?",
        "run.yaml:6: optim.lr: must be above 0.0 (-1)",
        "run.yaml:8: schedule.name: must be constant or step or linear or cosine or wsd or inverse_sqrt or plateau; "
        "did you mean 'cosine'? (cosin)",
    ]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("seq_len: 12", "run.yaml:6: seq_len: unknown key; did you mean 'task.seq_len'?"),
        ("nonsense: 1", "run.yaml:6: nonsense: unknown key"),
        ("optim: adamw", "run.yaml:6: optim: must be a section with keys of its own (adamw)"),
        ("optim: {betas: [0.9]}", "run.yaml:6: optim.betas.1: is missing: one value more is needed"),
        ("evaluate: {every_steps: '5'}", 'run.yaml:6: evaluate.every_steps: must be a whole number ("5")'),
        ("evaluate: {every_steps: 5}", "run.yaml:6: evaluate.every_steps: needs data.split.validation above 0"),
        ("cluster: {cpus_per_rank: 0}", "run.yaml:6: cluster.cpus_per_rank: must be at least 1 or auto (0)"),
        ("cluster: {nodes: {min: 3, max: 2}}", "run.yaml:6: cluster.nodes: nodes.min 3 is above nodes.max 2"),
        ("seed: true", "run.yaml:6: seed: must be a whole number (true)"),
        ("seed: 1\nseed: 2", "run.yaml:7: seed: written twice; first on line 6"),
        ("seed: !!python/name:os.system x", "run.yaml:6: seed: the tag python/name:os.system has no meaning"),
        ("optim: {lr: 1e999}", "run.yaml:6: optim.lr: 1e999 is too large a number"),
        ("cluster: &c {env: *c}", "run.yaml:6: cluster.env: an alias must not stand inside its own anchor"),
        ("? [a, b]\n: 1", "run.yaml:6: a key must be a word"),
        ("schedule: {warmup_steps: 10}", "run.yaml:6: schedule.warmup_steps: leaves no step of train.steps 10 (10)"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_key(load_text, extra, message):
    problems = problems_of(load_text, SMALLEST + extra)
    assert any(problem.startswith(message) for problem in problems), problems


def test_messages_speak_of_yaml_and_not_of_python_types(load_text):
    everything_wrong = "\n".join(f"{key}: !!str 3" for key in ("data", "prepare", "model", "train", "optim", "cluster"))
    text = "\n".join(problems_of(load_text, everything_wrong + "\ncheckpoint: {keep: {last: x}}\nroot: 3"))
    assert "pydantic" not in text
    assert "http" not in text
    assert "Input should" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "bad.yaml: cannot be read: No such file or directory"),
        (b"", "bad.yaml: is empty"),
        (b"# only words\n", "bad.yaml: is empty"),
        (b"- a\n", "bad.yaml:1: must be a mapping of keys at the top, and is a list"),
        (b"a: [1\nb: 2\n", "bad.yaml:2: is not YAML: "),
        (b"a: 1\n---\nb: 2\n", "bad.yaml:2: is not YAML: "),
        (b"\xff\xfe\x00", "bad.yaml: is not a YAML text: it holds bytes that are no UTF-8"),
        (b"a: \x00", "bad.yaml:1: is not "),
    ],
)
def test_a_file_that_holds_no_config_is_named(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("bad.yaml").write_bytes(content)
    (problem,) = problems_of(load_config, Path("bad.yaml"))
    assert problem.startswith(message)


def test_a_folder_is_no_config(tmp_path):
    assert "cannot be read" in problems_of(load_config, tmp_path)[0]


def test_later_overlays_win_and_mappings_merge_while_lists_are_replaced(write):
    base = write("run.yaml", SMALLEST + "tracking: {wandb: {tags: [a, b], group: g}}\n")
    first = write("first.yaml", "tracking: {wandb: {tags: [c]}}\ntrain: {global_batch: 8}\n")
    second = write("second.yaml", "train: {global_batch: 16}\n")
    loaded = load_config(base, [first, second])
    assert loaded.config.tracking.wandb.tags == ["c"]
    assert loaded.config.tracking.wandb.group == "g"
    assert (loaded.config.train.steps, loaded.config.train.global_batch) == (10, 16)
    assert load_config(base, [second, first]).config.train.global_batch == 8
    assert str(loaded.provenance["train.global_batch"]) == "second.yaml:1"
    assert str(loaded.provenance["tracking.wandb.tags"]) == "first.yaml:1"
    assert str(loaded.provenance["train.steps"]) == "run.yaml:5"


def test_an_overlay_that_replaces_a_list_of_sections_leaves_nothing_of_it(write):
    base = write("run.yaml", SMALLEST.replace("{path: data/text}", "{path: a, weight: 2}, {path: b}"))
    loaded = load_config(base, [write("over.yaml", "data: {train: [{path: c}]}")])
    assert [source.path for source in loaded.config.data.train] == ["c"]
    assert str(loaded.provenance["data.train.0.weight"]) == "default"


def test_problems_of_several_files_are_told_together(write):
    base = write("run.yaml", SMALLEST + "seed: x\n")
    over = write("over.yaml", "root: 5\n")
    problems = problems_of(load_config, base, [over], ["train.steps=0"])
    assert problems == [
        "run.yaml:6: seed: must be a whole number (x)",
        "over.yaml:1: root: must be text: put it in quotes (5)",
        "command line: train.steps=0: train.steps: must be at least 1 (0)",
    ]


def test_every_missing_file_is_told(write):
    base = write("run.yaml", SMALLEST)
    assert len(problems_of(load_config, base, [Path("no1.yaml"), Path("no2.yaml")])) == 2


def test_the_command_line_wins_and_reaches_into_lists(load_text):
    loaded = load_text(
        SMALLEST, "train.steps=7", "data.train.0.weight=2", "cluster.nodes={max: 3}", "data.split.test=.5"
    )
    assert loaded.config.train.steps == 7
    assert loaded.config.data.train[0].weight == 2
    assert loaded.config.data.train[0].path == "data/text"
    assert (loaded.config.cluster.nodes.min, loaded.config.cluster.nodes.max) == (1, 3)
    assert str(loaded.provenance["data.train.0.weight"]) == "command line: data.train.0.weight=2"
    assert str(loaded.provenance["cluster.nodes.max"]) == "command line: cluster.nodes={max: 3}"


def test_an_empty_value_on_the_command_line_means_none(load_text):
    assert load_text(SMALLEST, "train.clip_norm=").config.train.clip_norm is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.steps", "must be key=value, for example train.steps=100"),
        ("train..steps=1", "must be key=value, for example train.steps=100"),
        ("data.train.3.path=x", "data.train.3 is no section or list, so it has no path"),
        ("data.train.7={path: x}", "data.train has 1 entries, numbered from 0, and no 7"),
        ("seed.x=1", "seed is no section or list, so it has no x"),
        ("trian.steps=1", "trian: unknown key; did you mean 'train'?"),
        ("train.steps=[1", "is not YAML: "),
    ],
)
def test_a_wrong_word_on_the_command_line_is_named(load_text, text, message):
    (problem,) = problems_of(load_text, SMALLEST + "seed: 3\n", text)
    assert problem.startswith(f"command line: {text}: {message}")


@pytest.mark.parametrize("word", ["1e-3", "1E-3", "0.001", "1.0e-3", "+.001"])
def test_numbers_with_a_power_and_without_a_dot_are_numbers(load_text, word):
    assert load_text(SMALLEST + f"optim: {{lr: {word}}}").config.optim.lr == 0.001


def test_large_numbers_may_be_grouped(load_text):
    assert load_text(SMALLEST, "data.window_samples=1_000_000").config.data.window_samples == 1_000_000


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "2020-01-01", "012", "1:30", ".nan", "0x1f"])
def test_words_that_older_yaml_takes_for_something_else_stay_text(load_text, word):
    assert load_text(SMALLEST + f"tracking: {{wandb: {{tags: [{word}]}}}}").config.tracking.wandb.tags == [word]


def test_wandb_is_turned_off_by_the_bare_word(load_text):
    assert load_text(SMALLEST, "tracking.wandb.mode=off").config.tracking.wandb.mode == "off"


def test_switches_take_true_and_false_only(load_text):
    assert load_text(SMALLEST, "data.shuffle=false").config.data.shuffle is False
    assert problems_of(load_text, SMALLEST, "data.shuffle=no") == [
        "command line: data.shuffle=no: data.shuffle: must be true or false (no)"
    ]


def test_a_phase_must_name_sources_that_exist(load_text):
    text = SMALLEST.replace("}]}", "}], phases: [{from_step: 3, weights: {texts: 1.0}}]}")
    assert problems_of(load_text, text) == [
        "run.yaml:2: data.phases.0.weights.texts: is no source of data.train; did you mean 'text'?"
    ]


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "aws_secret_access_key", "DB_PASSWORD"])
def test_a_secret_among_the_environment_variables_is_refused_and_not_repeated(load_text, name):
    [line] = problems_of(load_text, SMALLEST + f"cluster: {{env: {{{name}: hush}}}}\n")
    assert f"{name} looks like a secret" in line
    assert "hush" not in line


def test_environment_variables_that_are_no_secrets_are_taken(load_text):
    text = SMALLEST + "cluster: {env: {TOKENIZERS_PARALLELISM: 'false', NCCL_DEBUG: INFO, KEYBOARD: us}}\n"
    assert len(load_text(text).config.cluster.env) == 3


def test_fields_are_not_called_what_batches_call_their_own(load_text):
    fields = "{weights: {members: [npy]}, image: {members: [jpg]}, draw_keys: {members: [npy]}}"
    text = SMALLEST.replace("{train: [{path: data/text}]}", f"{{train: [{{path: data/text}}], fields: {fields}}}")
    reason = "every batch has something else under this name: give the field another one"
    assert problems_of(load_text, text) == [
        f"run.yaml:2: data.fields.weights: {reason}",
        f"run.yaml:2: data.fields.draw_keys: {reason}",
    ]
