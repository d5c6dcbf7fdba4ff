import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.training import ScheduleSection
from orchestrator.train.optim.schedule import SHAPES, learning_rate


def rates(schedule, steps, peak=1.0):
    return [learning_rate(schedule, peak, step, steps) for step in range(steps)]


def test_every_shape_of_the_config_is_in_the_table():
    assert set(ScheduleSection.model_fields["name"].annotation.__args__) == set(SHAPES)


def test_constant_warms_up_and_stays():
    assert rates(ScheduleSection(warmup_steps=3), 6) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_cosine_falls_to_its_final_share_at_the_last_step():
    values = rates(ScheduleSection(name="cosine", warmup_steps=1, final_share=0.1), 6)
    assert values == pytest.approx([0.5, 1.0, 0.868198, 0.55, 0.231802, 0.1], abs=1e-6)


@given(
    name=st.sampled_from(sorted(SHAPES)),
    steps=st.integers(1, 200),
    warmup=st.integers(0, 199),
    share=st.floats(0, 1),
    peak=st.floats(1e-6, 10),
)
def test_rate_starts_above_zero_and_never_passes_the_peak(name, steps, warmup, share, peak):
    schedule = ScheduleSection(name=name, warmup_steps=min(warmup, steps - 1), final_share=share)
    values = rates(schedule, steps, peak)
    assert values[0] > 0
    assert all(0 <= value <= peak * (1 + 1e-12) for value in values)
    assert max(values) == pytest.approx(peak)
