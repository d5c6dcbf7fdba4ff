import pytest

from launch.screens.spoken import say_duration, say_loss, say_seconds, say_span, say_time, say_time_spent


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3.0, "0 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (3_599.0, "59 min"),
        (3_600.0, "1 h 0 min"),
        (86_399.0, "23 h 59 min"),
        (200_000.0, "2 d 7 h"),
    ],
)
def test_durations_are_told_in_the_units_that_matter(seconds: float, said: str) -> None:
    assert say_duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.01234, "0.0123 s"), (1.0, "1 s"), (99.96, "100 s"), (3_600.4, "3600 s")]
)
def test_steps_take_seconds(seconds: float, said: str) -> None:
    assert say_seconds(seconds) == said


def test_a_time_has_its_day_when_that_is_another_one(utc: None) -> None:
    now = 1_790_000_000.0  # 2026-09-21 14:13:20
    assert say_time(now - 60.0, now) == "14:12:20"
    assert say_time(now - 86_400.0, now) == "2026-09-20 14:13"


def test_losses_and_spans() -> None:
    assert (say_loss(2.34567), say_loss(123_456.7), say_loss(float("nan"))) == ("2.3457", "1.235e+05", "nan")
    assert (say_span([1_204, 1_203]), say_span([7, 7])) == ("1,203-1,204", "7")


def test_what_took_time_is_told_with_the_most_first_and_without_trifles() -> None:
    spent = {"step": 600.0, "replay": 3.0, "lost": 4.0, "idle": 0.1, "start": 30.0, "detect": 2.9}
    assert say_time_spent(spent, 0.942) == "94.2 % of 10 min; start 30 s, lost 4 s, detect 2.9 s"
    assert say_time_spent({"step": 2.0}, 1.0) == "100.0 % of 2 s"
