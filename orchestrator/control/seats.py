"""The seats of a node, who sits in them, and who stands by. Made by the node actor; member.py is one process.

A seat is a device and slots of the vault; ranks take them job by job, survivors their own. Whoever dies is replaced in
the background, so that there are always as many processes as seats and spares."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from orchestrator.control.bell import Bell
from orchestrator.control.jobs import Abort, Assignment, RankJob, RankReport, RankState, Seat
from orchestrator.control.member import Carry, Member, Nursery
from orchestrator.core.words import Word

log = logging.getLogger(__name__)
DEAD_KEPT = 8  # of those that never had a job
YOUNG_S = 5.0  # who dies before it is older, and before it has had a job, may do so again and again:
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # then the next one comes later


class Seats:
    def __init__(
        self,
        seats: Sequence[Seat],
        spares: int,
        *,
        recruit: Callable[[Carry], Member],
        nursery: Nursery,
        carry: Carry,
        bell: Bell,
        lease_s: float,
    ) -> None:
        self._seats, self._wanted = seats, len(seats) + spares
        self._recruit, self._nursery, self._carry, self._bell, self._lease_s = recruit, nursery, carry, bell, lease_s
        self._lock = threading.RLock()
        self._members: list[Member] = []
        self.generation = 0  # the one that was heard of last; nothing is begun of it or of earlier ones any more
        self._pause_s = 0.0
        self._is_over = False
        for _ in range(self._wanted):
            self._add()

    # ---- what the controller asks for ----

    def train(self, jobs: Sequence[RankJob], pids: Sequence[int]) -> None:
        """Give each seat's rank its job. Who has died just now is chosen all the same, and then reported with it."""
        assert len(jobs) == len(pids) == len(self._seats)
        with self._lock:
            if jobs[0].generation <= self.generation:
                log.warning("jobs of generation %d come after %d: refused", jobs[0].generation, self.generation)
                return
            self.generation = jobs[0].generation
            chosen = self._choose(pids)
            for number, (member, job) in enumerate(zip(chosen, jobs, strict=True)):
                member.assign(job, number)
                member.board.say(Word.GO_ON)  # what was said of an earlier world is not meant for this one
            self._members = [one for one in self._members if one.state is not RankState.DIED or one in chosen]
            for member in self._members:
                if member not in chosen:
                    member.seat = None  # who gets free only now stands by
        for member, job, seat in zip(chosen, jobs, self._seats, strict=True):
            member.send(Assignment(job, seat))
        self._bell.ring()  # until it hears that all have their jobs, a controller waits with what it wants of them

    def abort(self, generation: int) -> None:
        """Whoever is in that generation or an earlier one gets out of it."""
        with self._lock:
            is_news, self.generation = generation > self.generation, max(self.generation, generation)
            held = [one for one in self._members if one.job is not None and one.job.generation <= generation]
        for member in held:
            if not member.is_free:
                member.send(Abort(generation))
        if is_news:
            self._bell.ring()

    def end(self) -> None:
        """Kill all; nobody replaces them."""
        with self._lock:
            self._is_over = True
        for member in self.members:
            member.kill("the node actor ends")

    # ---- what the node actor needs ----

    @property
    def members(self) -> list[Member]:
        with self._lock:
            return list(self._members)

    def report(self) -> tuple[RankReport, ...]:
        """Of the dead, too, until the next generation begins; by seat, then those that stand by."""
        reports = [member.report() for member in self.members]
        return tuple(sorted(reports, key=lambda one: len(self._seats) if one.local_rank is None else one.local_rank))

    def renew(self, word: Word) -> None:
        """What the controller says, and for how long."""
        for member in self.members:
            member.board.renew(self._lease_s)
            member.board.say(word)

    # ---- inside ----

    def _choose(self, pids: Sequence[int]) -> list[Member]:
        """One a seat; somebody else where even the dead one has been forgotten."""
        known = {one.pid: one for one in self._members}
        others = iter([one for one in self._members if one.is_free and one.pid not in pids])
        return [known[pid] if pid in known else next(others) for pid in pids]

    def _add(self) -> None:
        with self._lock:
            if self._is_over:
                return
            member = self._recruit(self._carry)
            member.board.renew(self._lease_s)
            self._members.append(member)
        threading.Thread(target=self._accompany, args=(member,), daemon=True).start()

    def _accompany(self, member: Member) -> None:
        member.live(self._nursery, self._bell.ring)
        self._forget_old_dead()
        is_young = member.job is None and time.monotonic() - member.born < YOUNG_S
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s + FIRST_PAUSE_S) if is_young else 0.0
        time.sleep(self._pause_s)
        self._add()

    def _forget_old_dead(self) -> None:
        """Who was told to die, and only did so when the next generation had begun; and many that died as spares."""
        with self._lock:
            dead = [one for one in self._members if one.state is RankState.DIED]
            old = [one for one in dead if one.job is not None and one.job.generation < self.generation]
            for member in [*old, *[one for one in dead if one.job is None][:-DEAD_KEPT]]:
                self._members.remove(member)
