"""What waits for its commit: the events of requests, cut into parts that fit into one commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from boost_streams.errors import BoostError
from db.new_events import NewEvent

#: Bounds of one commit, so that its message stays far under the broker's limit (STORAGE.md): of events, of events where
#: a worker only takes in and very many wait (`web/wave.py`), and of bytes.
MOST_EVENTS = 500
MOST_EVENTS_OF_MANY = 800
MOST_BYTES = 512 * 1024


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """An event that is stored: its id as text, and whether an earlier event carried the same messageId."""

    id: str
    duplicate: bool = False


Answer = Accepted | BoostError


class Submission:
    """The events of one request, answered when the last of them is.

    `done` is given the submission and must not hold it: a cycle of the two would keep the events, long after they are
    answered, until Python looks for cycles, which it does seldom (`boost_streams/process.py`).
    """

    __slots__ = ("_answers", "_done", "_open", "answer_by", "events", "size", "sizes", "taken")

    def __init__(
        self, events: Sequence[NewEvent], done: Callable[[Submission, list[Answer]], None], answer_by: float
    ) -> None:
        self.events = events
        #: The event loop's time after which nobody waits for an answer any more.
        self.answer_by = answer_by
        self.sizes = [event.size for event in events]
        self.size = sum(self.sizes)
        #: How many of the events have been taken off the waiting list.
        self.taken = 0
        self._done = done
        self._answers: list[Answer | None] = [None] * len(events)
        self._open = len(events)

    @property
    def answered(self) -> bool:
        """Tell whether every event has its answer."""
        return self._open <= 0

    def answer(self, first: int, answers: Sequence[Answer]) -> None:
        """Answer for the events from position `first` on, none of which has an answer yet."""
        self._answers[first : first + len(answers)] = answers
        self._open -= len(answers)
        if self._open == 0:
            self._done(self, [given for given in self._answers if given is not None])

    def answer_rest(self, first: int, end: int, answer: Answer) -> None:
        """Give the same answer for the events from `first` to before `end` that have none yet."""
        for position in range(first, end):
            if self._answers[position] is None:
                self.answer(position, [answer])

    def give_up(self, answer: Answer) -> None:
        """Give the same answer for all events that have none yet, whether they are being stored or still wait."""
        self.answer_rest(0, len(self.events), answer)


class Part(msgspec.Struct, frozen=True):
    """Consecutive events of one submission, from `first` to before `end`, that go into one commit."""

    submission: Submission
    first: int
    end: int

    def __len__(self) -> int:
        """Return how many events it has."""
        return self.end - self.first

    def events(self) -> Sequence[NewEvent]:
        """Return its events."""
        return self.submission.events[self.first : self.end]

    def singles(self) -> list[Part]:
        """Return a part for each of its events."""
        return [Part(self.submission, position, position + 1) for position in range(self.first, self.end)]


class WaitingList:
    """Submissions in the order in which they came."""

    def __init__(self) -> None:
        self._submissions: deque[Submission] = deque()
        #: How many events wait, and about how many bytes they have.
        self.events = 0
        self.size = 0

    @property
    def full(self) -> bool:
        """Tell whether what waits is as much as a commit takes, but for one that takes of very many."""
        return self.events >= MOST_EVENTS or self.size >= MOST_BYTES

    def append(self, submission: Submission) -> None:
        """Put a submission at the end."""
        self._submissions.append(submission)
        self.events += len(submission.events)
        self.size += submission.size

    def take(self, most_events: int = MOST_EVENTS) -> list[Part]:
        """Take off what fits into one commit, at least one event: whole submissions, and the beginning of the next."""
        parts: list[Part] = []
        count = size = 0
        while self._submissions and count < most_events:
            submission = self._submissions[0]
            first, most = submission.taken, most_events - count
            end = _fitting(submission.sizes, first, most, MOST_BYTES - size, at_least=0 if parts else 1)
            if end == first:
                break
            parts.append(Part(submission, first, end))
            count += end - first
            size += submission.size if end - first == len(submission.sizes) else sum(submission.sizes[first:end])
            submission.taken = end
            if end < len(submission.events):
                break
            self._submissions.popleft()
        self.events -= count
        self.size -= size
        return parts

    def drop_answered(self) -> None:
        """Take off submissions that have their answer: nobody waits for them, and they are not to be stored later."""
        answered = [submission for submission in self._submissions if submission.answered]
        if answered:
            self.events -= sum(len(submission.events) - submission.taken for submission in answered)
            self.size -= sum(sum(submission.sizes[submission.taken :]) for submission in answered)
            self._submissions = deque(one for one in self._submissions if not one.answered)


def _fitting(sizes: Sequence[int], first: int, most: int, room: int, *, at_least: int) -> int:
    """Return up to which position events fit into `room` bytes, beginning at `first`; `at_least` so many do."""
    end = min(len(sizes), first + most)
    for position in range(first, end):
        room -= sizes[position]
        if room < 0 and position - first >= at_least:
            return position
    return end
