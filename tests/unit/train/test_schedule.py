from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.config.training import ScheduleSection
from orchestrator.train.optim.schedule import SHAPES, learning_rate

NAMES = ScheduleSection.model_fields["name"].annotation.__args__


def rates(schedule, steps, peak=1.0, falls=0):
    return [learning_rate(schedule, peak, step, steps, falls) for step in range(steps)]


def test_every_shape_of_the_config_is_in_the_table():
    assert set(NAMES) == {*SHAPES, "plateau"}


def test_constant_warms_up_and_stays():
    assert rates(ScheduleSection(warmup_steps=3), 6) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_cosine_falls_to_its_final_share_at_the_last_step():
    values = rates(ScheduleSection(name="cosine", warmup_steps=1, final_share=0.1), 6)
    assert values == pytest.approx([0.5, 1.0, 0.868198, 0.55, 0.231802, 0.1], abs=1e-6)


def test_linear_falls_in_equal_strides_to_its_final_share():
    values = rates(ScheduleSection(name="linear", warmup_steps=1, final_share=0.2), 6)
    assert values == pytest.approx([0.5, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_step_multiplies_after_each_so_many_steps_past_warm_up():
    values = rates(ScheduleSection(name="step", warmup_steps=1, every_steps=2, factor=0.5), 6)
    assert values == pytest.approx([0.5, 1, 1, 0.5, 0.5, 0.25])


def test_wsd_stays_at_the_peak_and_falls_over_the_last_share_of_the_steps():
    values = rates(ScheduleSection(name="wsd", warmup_steps=1, decay_share=0.3, final_share=0.1), 10)
    assert values == pytest.approx([0.5, *[1.0] * 6, 0.7, 0.4, 0.1])


def test_inverse_root_falls_with_the_root_of_the_step():
    values = rates(ScheduleSection(name="inverse_sqrt", warmup_steps=3), 16)
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values[15] == pytest.approx(0.5)


def test_plateau_falls_by_its_factor_as_often_as_it_has_come_to_one():
    schedule = ScheduleSection(name="plateau", warmup_steps=1, factor=0.5)
    assert rates(schedule, 3) == [0.5, 1, 1]
    assert rates(schedule, 3, falls=2) == [0.5, 0.25, 0.25]


@given(
    name=st.sampled_from(sorted(NAMES)),
    steps=st.integers(1, 200),
    warmup=st.integers(0, 199),
    share=st.floats(0, 1),
    decay_share=st.floats(0.01, 1),
    every=st.integers(1, 50),
    peak=st.floats(1e-6, 10),
)
@example(name="wsd", steps=2, warmup=0, share=0.0, decay_share=0.25, every=1, peak=1.0)  # half a step rounds to none
def test_rate_starts_above_zero_reaches_its_peak_after_warm_up_and_never_rises_again(
    name, steps, warmup, share, decay_share, every, peak
):
    warmup = min(warmup, steps - 1)
    schedule = ScheduleSection(
        name=name, warmup_steps=warmup, final_share=share, decay_share=decay_share, every_steps=every
    )
    values = rates(schedule, steps, peak)
    assert values[0] > 0
    assert values[warmup] == pytest.approx(peak)
    assert values[:warmup] == sorted(values[:warmup])
    assert all(0 <= after <= before * (1 + 1e-12) for before, after in pairwise(values[warmup:]))
    if name in ("linear", "cosine", "wsd") and steps - 1 > warmup:
        assert values[-1] == pytest.approx(peak * share, abs=1e-12)
