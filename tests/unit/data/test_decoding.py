"""A data section decodes samples: alone, in columns, in another process; and tells holes from faults of the job."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from orchestrator.config.data import DataSection
from orchestrator.core.errors import ConfigError, DataError
from orchestrator.data.decoding.decode import Undecodable
from orchestrator.data.decoding.draws import Draw
from orchestrator.data.decoding.fields import Decoding, TransformFailed

FAKES = "tests.fakes.transforms"
KEYS = np.array([3, 2**64 - 1, 5], np.uint64)


def decoding(fields, *transforms) -> Decoding:
    section = {"train": [{"path": "data/x"}], "fields": fields, "transforms": list(transforms)}
    return Decoding.of(DataSection.model_validate(section))


def texts(*given: bytes):
    return {"text": (["txt"] * len(given), [memoryview(one) for one in given])}


TEXT = {"text": {"members": ["txt"]}}
IMAGE = {"image": {"members": ["ppm", "png"]}, "label": {"members": ["cls"]}}


def picture(form: str, shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, 0, 0)).save(file, form)
    return file.getvalue()


def test_each_member_is_decoded_by_its_own_suffix():
    members = {
        "image": (["png", "ppm"], [picture("PNG", 9), picture("PPM", 8)]),
        "label": (["cls", "cls"], [b"1", b"2"]),
    }
    columns, failures = decoding(IMAGE).decode_columns(members, KEYS[:2])
    assert not failures
    assert [image[0, 0, 0] for image in columns["image"]] == [9, 8]
    assert columns["label"] == [1, 2]


def test_undecodable_rows_are_named_with_their_reason_and_others_go_on():
    columns, failures = decoding(TEXT, {"name": "strip", "field": "text"}).decode_columns(
        texts(b"a ", b"\xff", b"c "), KEYS
    )
    assert columns == {"text": ["a", None, "c"]}
    assert list(failures) == [1]
    assert failures[1].startswith("text (txt): UnicodeDecodeError: ")


def test_the_first_field_that_fails_gives_the_reason():
    members = {"image": (["png"], [b"none"]), "label": (["cls"], [b"none"])}
    columns, failures = decoding(IMAGE).decode_columns(members, KEYS[:1])
    assert columns == {"image": [None], "label": [None]}
    assert failures[0].startswith("image (png): UnidentifiedImageError")


def test_a_sample_alone_is_what_it_is_among_others():
    spec = decoding(
        {"image": {"members": ["png"]}}, {"name": f"{FAKES}:shade", "field": "image", "args": {"depth": 5.0}}
    )
    data = picture("PNG", 1)
    columns, _ = spec.decode_columns({"image": (["png"] * 3, [data] * 3)}, KEYS)
    for key, image in zip(KEYS, columns["image"], strict=True):
        assert np.array_equal(spec.decode_sample({"image": ("png", memoryview(data))}, key)["image"], image)
        assert image[0, 0, 0] == Draw(key).uniform("shade", 0, 5.0)


def test_a_sample_alone_raises_what_is_wrong_with_it():
    with pytest.raises(Undecodable, match=r"text \(txt\): UnicodeDecodeError"):
        decoding(TEXT).decode_sample({"text": ("txt", b"\xff")}, KEYS[0])


def test_transforms_follow_one_another_in_the_order_given():
    steps = [{"name": "pick", "field": "text", "args": {"path": "words.0"}}, {"name": "lower", "field": "text"}]
    spec = decoding({"text": {"members": ["json"]}}, *steps)
    assert spec.decode_sample({"text": ("json", json.dumps({"words": ["HEY"]}).encode())}, KEYS[0]) == {"text": "hey"}


def test_a_step_without_a_field_is_given_the_whole_sample():
    columns, _ = decoding(TEXT, {"name": f"{FAKES}.add_length"}).decode_columns(texts(b"four", b"\xff", b"six"), KEYS)
    assert columns == {"text": ["four", None, "six"], "length": [4, None, 3]}


def test_an_image_and_its_mask_are_changed_alike():
    fields = {"image": {"members": ["npy"]}, "mask": {"members": ["seg.npy"]}}
    file = io.BytesIO()
    np.save(file, np.arange(4).reshape(1, 4))
    members = {"image": (["npy"] * 40, [file.getvalue()] * 40), "mask": (["seg.npy"] * 40, [file.getvalue()] * 40)}
    columns, _ = decoding(fields, {"name": f"{FAKES}:mirror_both"}).decode_columns(
        members, np.arange(40, dtype=np.uint64)
    )
    assert all(np.array_equal(*pair) for pair in zip(columns["image"], columns["mask"], strict=True))
    assert len({image[0, 0] for image in columns["image"]}) == 2


def test_a_users_decoder_is_found_by_its_name():
    spec = decoding({"marks": {"members": ["txt"], "decode": f"{FAKES}:count_marks"}})
    assert spec.decode_sample({"marks": ("txt", memoryview(b"oh! no!"))}, KEYS[0]) == {"marks": 2}


def test_a_hole_has_the_same_reason_on_every_machine():
    _, failures = decoding({"image": {"members": ["jpg"]}}).decode_columns(
        {"image": (["jpg"], [b"no image"])}, KEYS[:1]
    )
    assert "cannot identify" in failures[0]
    assert "0x" not in failures[0]


def test_a_sample_that_a_transform_cannot_use_is_a_hole():
    step = {"name": f"{FAKES}:keep_long", "field": "text", "args": {"letters": 3}}
    columns, failures = decoding(TEXT, step).decode_columns(texts(b"ab", b"abc", b"a"), KEYS)
    assert columns == {"text": [None, "abc", None]}
    assert failures[0] == f"text ({FAKES}:keep_long): has 2 letters of 3"
    assert list(failures) == [0, 2]


def test_a_batch_of_holes_only_keeps_the_fields_names():
    step = {"name": f"{FAKES}:keep_long", "field": "text", "args": {"letters": 3}}
    columns, failures = decoding(TEXT, step).decode_columns(texts(b"a"), KEYS[:1])
    assert (columns, list(failures)) == ({"text": [None]}, [0])


def test_a_transform_that_raises_is_a_fault_of_the_job_with_what_it_was_given():
    spec = decoding({"image": {"members": ["png"]}}, {"name": f"{FAKES}:fail", "field": "image"})
    with pytest.raises(TransformFailed) as caught:
        spec.decode_columns({"image": (["png", "png"], [b"no picture", picture("PNG", 1)])}, KEYS[:2])
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.row == 1
    assert error.where == "data.transforms.0"
    assert error.message == f"{FAKES}:fail failed, given uint8 of shape (3, 4, 3): ZeroDivisionError: of no use"


def test_a_whole_sample_step_must_return_the_sample():
    with pytest.raises(TransformFailed, match="forget_to_return returned a NoneType, not the sample's fields"):
        decoding(TEXT, {"name": f"{FAKES}:forget_to_return"}).decode_columns(texts(b"a"), KEYS[:1])


def test_samples_of_a_batch_must_keep_the_same_fields(tmp_path, monkeypatch):
    (tmp_path / "uneven_fields.py").write_text("def drop(sample):\n    return {k: v for k, v in sample.items() if v}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match="samples of one batch have different fields"):
        decoding(TEXT, {"name": "uneven_fields:drop"}).decode_columns(texts(b"a", b"", b"c"), KEYS)


def test_a_decoding_travels_and_functions_are_found_where_it_is_used():
    spec = decoding(TEXT, {"name": "no_such_module:f", "field": "text"})
    there = pickle.loads(pickle.dumps(spec))
    with pytest.raises(ConfigError, match=r"data\.transforms\.0\.name: 'no_such_module:f' cannot be imported"):
        there.decode_columns(texts(b"a"), KEYS[:1])


def test_a_decoding_that_was_used_travels_too():
    spec = decoding(TEXT, {"name": "strip", "field": "text"})
    unused = pickle.dumps(spec)
    first = spec.decode_columns(texts(b" a"), KEYS[:1])
    assert pickle.dumps(spec) == unused  # the words only, not what was found here
    assert pickle.loads(pickle.dumps(spec)).decode_columns(texts(b" a"), KEYS[:1]) == first
