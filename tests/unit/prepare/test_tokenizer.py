import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from orchestrator.config.data import SplitSection
from orchestrator.core.errors import DataError
from orchestrator.core.words import ShardRef
from orchestrator.data.decoding.texts import open_tokenizer
from orchestrator.prepare import tokenizer as module
from orchestrator.prepare.rules import Rules
from orchestrator.prepare.tokenizer import (
    END_MARK,
    TrainJob,
    find_tokenizer,
    import_tokenizer,
    read_vocab_size,
    train_tokenizer,
)
from orchestrator.storage.stores import StoreSettings
from orchestrator.storage.workplace import WorkPlace
from tests.fakes.shards import write_dataset, write_texts


def make_job(root, *paths, vocab_size=270, validation=0.0):
    shards = tuple(
        ShardRef(ordinal=i, source=0, name=f"s/{path.name}", url=str(path), size_bytes=1)
        for i, path in enumerate(paths)
    )
    rules = Rules(split=SplitSection(validation=validation), text_member="txt", on_bad="fail")
    contents = tuple(path.name for path in paths)
    return TrainJob(
        shards=shards,
        contents=contents,
        source_names=("s",),
        work=root / "work",
        stores=StoreSettings(),
        rules=rules,
        vocab_size=vocab_size,
    )


@pytest.fixture
def shards(tmp_path):
    return sorted(write_dataset(tmp_path / "data", 3, documents=20).glob("*.tar"))


def write_word_tokenizer(folder, specials=("</s>",), eos=None):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(specials))
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if eos is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    return folder


def test_trained_tokenizer_gives_back_every_byte(tmp_path, shards):
    info = train_tokenizer(make_job(tmp_path, *shards))
    tokenizer = open_tokenizer(info)
    text = "naïve 文字 \x00 tab\t and emoji 🚂"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert info.vocab_size == 270
    assert info.token_bytes == 2
    assert tokenizer.token_to_id(END_MARK) == info.end_id


def test_end_mark_inside_a_text_is_plain_text(tmp_path, shards):
    info = train_tokenizer(make_job(tmp_path, *shards))
    assert info.end_id not in open_tokenizer(info).encode(f"a {END_MARK} b").ids


def test_same_request_trains_once_and_other_work_places_agree(tmp_path, shards, monkeypatch):
    first = train_tokenizer(make_job(tmp_path, *shards))
    elsewhere = train_tokenizer(make_job(tmp_path / "elsewhere", *shards))
    assert first.id == elsewhere.id
    monkeypatch.setattr(module, "_train", lambda job: pytest.fail("trained again"))
    assert train_tokenizer(make_job(tmp_path, *shards)) == first


def test_other_splits_sizes_and_contents_are_other_requests(tmp_path, shards):
    jobs = [make_job(tmp_path, *shards), make_job(tmp_path, *shards, vocab_size=275)]
    jobs += [make_job(tmp_path, *shards, validation=0.8), make_job(tmp_path, *shards[1:])]
    assert len({job.request for job in jobs}) == 4


def test_validation_text_is_not_learnt_from(tmp_path):
    path = write_texts(tmp_path / "a.tar", {"k": "zyzzyva " * 50})
    with pytest.raises(DataError, match="no training text"):
        train_tokenizer(make_job(tmp_path, path, validation=0.999999))


def test_a_kill_before_the_last_file_leaves_nothing_that_is_trusted(tmp_path, shards):
    info = train_tokenizer(make_job(tmp_path, *shards))
    work = WorkPlace.at(tmp_path / "work")
    (work.tokenizer(info.id) / "info.json").unlink()
    assert find_tokenizer(work, info.id) is None
    assert train_tokenizer(make_job(tmp_path, *shards)) == info


@pytest.mark.parametrize("eos", ["</s>", {"content": "</s>", "lstrip": False}, None])
def test_tokenizer_is_imported_from_directory_or_file(tmp_path, eos):
    folder = write_word_tokenizer(tmp_path / "t", eos=eos)
    work = WorkPlace.at(tmp_path / "work")
    info = import_tokenizer(work, str(folder))
    assert (info.vocab_size, info.end_id) == (3, 2)
    assert import_tokenizer(work, str(folder / "tokenizer.json")) == info
    assert find_tokenizer(work, info.id) == info
    assert read_vocab_size(str(folder)) == 3


def test_the_smallest_vocabulary_has_no_merges(tmp_path, shards):
    assert train_tokenizer(make_job(tmp_path, *shards, vocab_size=257)).vocab_size == 257


def test_many_entries_need_four_bytes(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({str(i): i for i in range(65_536)}, unk_token="0"))
    tokenizer.save(str(folder / "a.json"))
    tokenizer.add_special_tokens([END_MARK])
    tokenizer.save(str(folder / "b.json"))
    info = import_tokenizer(WorkPlace.at(tmp_path / "work"), str(folder / "b.json"))
    assert (info.vocab_size, info.end_id, info.token_bytes) == (65_537, 65_536, 4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "cannot be read: No such file"),
        (lambda folder: write_word_tokenizer(folder, specials=()), "names no end-of-document token"),
        (lambda folder: write_word_tokenizer(folder, specials=("</s>", "<eos>")), "names no end-of-document token"),
        (lambda folder: write_word_tokenizer(folder, eos="<missing>"), "its vocabulary has no '<missing>'"),
        (lambda folder: write_texts(folder / "tokenizer.json", {"a": "b"}), "not valid JSON"),
    ],
)
def test_unusable_tokenizer_names_key_and_path(tmp_path, make, says):
    make(tmp_path / "t")
    with pytest.raises(DataError, match=says) as caught:
        import_tokenizer(WorkPlace.at(tmp_path / "work"), str(tmp_path / "t"))
    assert "prepare.tokens.tokenizer" in str(caught.value)
    assert caught.value.remedy
