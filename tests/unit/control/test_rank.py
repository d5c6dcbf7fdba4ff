"""What a rank sends to its node actor: everything, in order, and nothing is lost by going away too early."""

import threading
from multiprocessing import Pipe

from orchestrator.control.jobs import NewsParcel, RankEnd
from orchestrator.control.rank import NewsSender
from orchestrator.core.news import StepNews
from orchestrator.core.words import RunState

TIMEOUT_S = 30.0


def news_of(step: int) -> StepNews:
    return StepNews(step=step, generation=1, t=1.0, metrics={"loss": 1.0}, ledger={})


def test_the_end_comes_after_all_news_and_waits_to_be_read() -> None:
    ours, theirs = Pipe()
    sender = NewsSender(ours)
    for step in range(5):
        sender.tell(news_of(step))
    end = RankEnd(state=RunState.DONE, step=5)
    ending = threading.Thread(target=sender.say_end, args=(end,), daemon=True)
    ending.start()
    steps: list[int] = []
    while isinstance(message := theirs.recv(), NewsParcel):
        assert not theirs.poll(0.05)  # nothing more before the answer
        steps += [news.step for news in message.news if isinstance(news, StepNews)]
        theirs.send(None)
    assert steps == [0, 1, 2, 3, 4]
    assert message == end
    assert ending.is_alive()  # the rank does not go before its end was read
    theirs.send(None)
    ending.join(TIMEOUT_S)
    assert not ending.is_alive()


def test_flush_waits_for_the_answer() -> None:
    ours, theirs = Pipe()
    sender = NewsSender(ours)
    sender.tell(news_of(0))
    flushing = threading.Thread(target=sender.flush, daemon=True)
    flushing.start()
    theirs.recv()
    assert flushing.is_alive()
    theirs.send(None)
    flushing.join(TIMEOUT_S)
    assert not flushing.is_alive()
