"""The join plan, driven by hand and against a little world of directory and introducers on virtual time."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest

from srwan.identity import Identity
from srwan.overlay.group import group_id, rendezvous_keys
from srwan.overlay.join import Ask, Done, GroupFounded, GroupJoined, JoinPlan, JoinState, Lookup, Publish, Step, Wait
from srwan.overlay.peers import AddressBook
from srwan.overlay.rendezvous import IntroducerRecord, is_valid_value, merge_values, open_value
from srwan.overlay.transport import ControlAddress
from srwan.overlay.view import Member, Role, View
from srwan.types import GeoAsn, NodeId
from srwan.wire import pack

WALL_NS = 1_800_000_000_000_000_000
S = 1_000_000_000
GROUP = group_id("test")
KEYS = rendezvous_keys(GROUP)
IDENTITIES = [Identity(bytes([9, index]) * 16) for index in range(40)]


def wall_ns(now: float) -> int:
    return WALL_NS + int(now * 1e9)


def record(index: int, now: float = 0.0, host: str | None = None) -> bytes:
    host = host or f"198.51.{index}.7"
    issued_ns = wall_ns(now)
    return IntroducerRecord(IDENTITIES[index].node_id, GROUP, ((host, 4710),), (f"mem:{index}",), issued_ns, issued_ns + 600 * S).seal(
        IDENTITIES[index]
    )


def certificate(index: int, roles: Role = Role.RELAY | Role.INTRODUCER) -> bytes:
    plain = Member(IDENTITIES[index].node_id, 1, 0, "", ((f"198.51.{index}.7", 4710),), (), GeoAsn(), roles, WALL_NS, WALL_NS + 900 * S)
    return plain.seal(IDENTITIES[index])


class World:
    """Directory, introducers and one plan; `alive` answer, each with a roster of `members`."""

    def __init__(
        self, me: int = 0, *, is_introducer: bool = True, has_bootstrap: bool = True, seed: int = 1, lone_after_s: float = 4.0
    ) -> None:
        self.now = 0.0
        self.values: dict[bytes, bytes] = {}
        self.alive: set[int] = set()
        self.members: tuple[int, ...] = ()
        self.has_directory = True
        self.view = View()
        self.book = AddressBook()
        self.me = me
        self.view.merge(certificate(me), WALL_NS)
        self.plan = JoinPlan(
            IDENTITIES[me].node_id,
            GROUP,
            self.view,
            self.book,
            (lambda wall: record(me, (wall - WALL_NS) / 1e9)) if is_introducer else None,
            random.Random(seed),
            has_bootstrap=has_bootstrap,
            lone_after_s=lone_after_s,
        )
        self.steps: list[tuple[float, Step]] = []
        self.events: list[object] = []

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> World:
        """Take steps; a directory operation lasts 0.2 s, a request 0.1 s."""
        while self.now < until and not stop():
            step = self.plan.next_step(self.now, wall_ns(self.now))
            while (event := self.plan.next_event()) is not None:
                self.events.append(event)
            if isinstance(step, Done):
                self.now = until
            elif isinstance(step, Wait):
                assert step.until > self.now
                self.now = min(step.until, until)
            else:
                self.steps.append((self.now, step))
                self.take(step)
        return self

    def take(self, step: Step) -> None:
        match step:
            case Lookup(key=key):
                self.now += 0.2
                if self.has_directory:
                    self.plan.looked_up(key, self.values.get(key), self.now, wall_ns(self.now))
                else:
                    self.plan.step_failed(self.now)
            case Publish(key=key, value=value):
                self.now += 0.2
                assert is_valid_value(key, value, wall_ns(self.now))
                if self.has_directory:
                    self.values[key] = value
                    self.plan.published(key, 1, self.now)
                else:
                    self.plan.step_failed(self.now)
            case Ask(address=address):
                self.now += 0.1
                self.answer(address)
            case _:
                raise AssertionError(step)

    def answer(self, address: ControlAddress) -> None:
        index = int(address.multiaddrs[0].removeprefix("mem:"))
        if index not in self.alive:
            self.plan.step_failed(self.now)
            return
        for other in {index, *self.members}:
            self.view.merge(certificate(other), WALL_NS)
        self.plan.asked(address.node_id, len(self.view) - 1, self.now, wall_ns(self.now))

    @property
    def kinds(self) -> Counter[type[Step]]:
        return Counter(type(step) for _, step in self.steps)


def test_the_usual_newcomer_does_one_lookup_and_one_ask() -> None:
    world = World()
    world.values[KEYS[0]] = pack([record(index) for index in range(1, 6)])
    world.alive, world.members = set(range(1, 6)), tuple(range(1, 20))
    world.run(60.0)
    assert world.kinds == {Lookup: 1, Ask: 1}
    assert world.plan.state is JoinState.MEMBER
    [joined] = world.events
    assert isinstance(joined, GroupJoined)
    assert joined.size == 20


def test_a_newcomer_publishes_once_without_another_lookup_when_introducers_are_few() -> None:
    world = World()
    world.values[KEYS[0]] = pack([record(1)])
    world.alive = {1}
    world.run(60.0)
    assert world.kinds == {Lookup: 1, Ask: 1, Publish: 1}
    published_at, _ = world.steps[-1]
    assert 1.0 <= published_at <= 6.0
    assert {found.node_id for found in open_value(world.values[KEYS[0]], wall_ns(60.0))} == {IDENTITIES[0].node_id, IDENTITIES[1].node_id}


def test_of_many_newcomers_that_find_one_introducer_only_five_publish() -> None:
    publishers = 0
    for me in range(1, 40):
        world = World(me, seed=me)
        world.values[KEYS[0]] = pack([record(0)])
        world.alive, world.members = {0}, tuple(range(40))
        world.run(30.0)
        publishers += world.kinds[Publish]
    assert 4 <= publishers <= 5


def test_an_endpoint_that_does_not_introduce_never_publishes_and_is_done() -> None:
    world = World(is_introducer=False)
    world.values[KEYS[0]] = pack([record(1)])
    world.alive = {1}
    world.run(3000.0)
    assert world.kinds == {Lookup: 1, Ask: 1}
    assert isinstance(world.plan.next_step(world.now, wall_ns(world.now)), Done)


def test_the_other_keys_are_tried_when_the_first_gives_nothing_usable() -> None:
    world = World()
    world.values[KEYS[0]] = pack([record(1)])
    world.values[KEYS[2]] = pack([record(2)])
    world.alive = {2}
    world.run(1.5)
    assert [Lookup(KEYS[0]), Lookup(KEYS[1]), Lookup(KEYS[2])] == [step for _, step in world.steps if isinstance(step, Lookup)]
    assert world.plan.state is JoinState.MEMBER


def test_at_most_three_introducers_of_a_value_are_asked_and_distinct_hosts_first() -> None:
    for seed in range(10):
        world = World(seed=seed)
        crowd = [record(index, host="203.0.113.1") for index in range(1, 6)]
        world.values[KEYS[0]] = pack([*crowd, record(7), record(8)])
        world.run(1.0, lambda w=world: w.kinds[Ask] == 3)  # type: ignore[misc]
        asked = [step.address.node_id for _, step in world.steps if isinstance(step, Ask)]
        assert {IDENTITIES[7].node_id, IDENTITIES[8].node_id} < set(asked)
        assert len(set(asked)) == 3


def test_the_address_book_helps_when_the_directory_is_down() -> None:
    world = World()
    world.has_directory = False
    world.book.note(ControlAddress(IDENTITIES[3].node_id, ("mem:3",)), WALL_NS)
    world.alive = {3}
    world.run(2.0)
    assert world.plan.state is JoinState.MEMBER


def test_the_address_book_helps_without_any_bootstrap_address() -> None:
    world = World(has_bootstrap=False)
    world.book.note(ControlAddress(IDENTITIES[3].node_id, ("mem:3",)), WALL_NS)
    world.alive = {3}
    world.run(2.0)
    assert world.plan.state is JoinState.MEMBER


def test_a_node_without_bootstrap_founds_at_once_and_publishes_at_once() -> None:
    world = World(has_bootstrap=False)
    world.run(1.0)
    assert world.events == [GroupFounded()]
    assert [0.0] == [at for at, step in world.steps if isinstance(step, Publish)]


@pytest.mark.parametrize("seed", range(5))
def test_a_node_that_finds_nobody_founds_after_four_to_six_seconds_and_looks_again_at_two_five_and_ten(seed: int) -> None:
    world = World(seed=seed)
    world.run(100.0)
    founded = next(at for at, step in world.steps if isinstance(step, Publish))
    assert 4.0 <= founded <= 7.0
    assert world.events == [GroupFounded()]
    looks = [at - founded for at, step in world.steps if isinstance(step, Lookup) and at > founded]
    assert all(planned <= at <= 1.2 * planned + 1.0 for planned, at in zip((2.0, 5.0, 10.0), looks, strict=False))
    pauses = [later - earlier for earlier, later in itertools.pairwise(looks[2:])]
    assert all(24.0 <= pause <= 31.0 for pause in pauses)


def test_seeking_backs_off() -> None:
    world = World(lone_after_s=20.0)
    world.run(20.0)
    lookups = [at for at, step in world.steps if step == Lookup(KEYS[0])]
    pauses = [later - earlier for earlier, later in itertools.pairwise(lookups)]
    assert pauses[-1] > 4 * pauses[0]
    assert len(lookups) <= 8


def test_two_founders_find_each_other() -> None:
    world = World(has_bootstrap=False)
    world.run(1.0)
    world.values[KEYS[0]] = merge_values([world.values[KEYS[0]], pack([record(1)])], GROUP, wall_ns(1.0))
    world.alive, world.members = {1}, (1, 2, 3)
    world.run(4.0)
    assert len(world.view) == 4
    assert isinstance(world.events[-1], GroupJoined)


def test_a_founder_alone_keeps_all_three_keys_published() -> None:
    world = World(has_bootstrap=False)
    world.run(200.0)
    for until in range(210, 3000, 10):
        world.run(float(until))
        for key in KEYS:
            assert [IDENTITIES[0].node_id] == [found.node_id for found in open_value(world.values[key], wall_ns(world.now))]


def test_an_introducer_in_a_group_refreshes_every_key_before_its_record_expires() -> None:
    world = World()
    world.values[KEYS[0]] = pack([record(1)])
    world.alive = {1}
    world.run(400.0)
    for until in range(410, 880, 10):
        world.run(float(until))
        for key in KEYS:
            assert IDENTITIES[0].node_id in {found.node_id for found in open_value(world.values[key], wall_ns(world.now))}
    assert world.kinds[Lookup] <= 880 / 70


def test_an_introducer_beyond_the_fifth_hardly_touches_the_directory() -> None:
    idle = 0
    for me in range(1, 40):
        world = World(me, seed=me)
        world.values[KEYS[0]] = pack([record(index) for index in (0, 1, 2, 3, 4, 5)])
        world.alive, world.members = {0, 1, 2, 3, 4, 5}, tuple(range(40))
        world.run(700.0)
        idle += world.kinds[Lookup] == 1
    assert idle >= 34


def test_a_member_that_finds_itself_alone_seeks_again() -> None:
    world = World(is_introducer=False)
    world.values[KEYS[0]] = pack([record(1)])
    world.alive = {1}
    world.run(5.0)
    assert world.plan.state is JoinState.MEMBER
    world.view.merge(
        Member(
            IDENTITIES[1].node_id, 1, 9, "", (("198.51.1.7", 1),), (), GeoAsn(), Role.RELAY, WALL_NS, WALL_NS + 600 * S, is_leaving=True
        ).seal(IDENTITIES[1]),
        WALL_NS,
    )
    world.alive = set()
    world.run(20.0)
    assert isinstance(world.events[-1], GroupFounded)


def test_a_roster_with_nobody_in_it_counts_as_no_answer() -> None:
    plan = World().plan
    plan.next_step(0.0, WALL_NS)
    plan.looked_up(KEYS[0], pack([record(1)]), 0.0, WALL_NS)
    step = plan.next_step(0.0, WALL_NS)
    assert isinstance(step, Ask)
    plan.asked(step.address.node_id, 0, 0.1, WALL_NS)
    assert plan.state is JoinState.SEEKING
    assert plan.next_step(0.1, WALL_NS) == Lookup(KEYS[1])


@pytest.mark.parametrize("value", [b"rubbish", pack([]), pack([b"rubbish"]), b"x" * 5000])
def test_rubbish_in_the_directory_is_like_nothing(value: bytes) -> None:
    world = World()
    world.values = dict.fromkeys(KEYS, value)
    world.run(10.0)
    assert world.plan.state is JoinState.FOUNDER


def test_records_of_another_group_are_not_asked() -> None:
    world = World()
    foreign = IntroducerRecord(IDENTITIES[1].node_id, group_id("other"), (("192.0.2.1", 1),), ("mem:1",), WALL_NS, WALL_NS + 600 * S)
    world.values[KEYS[0]] = pack([foreign.seal(IDENTITIES[1])])
    world.alive = {1}
    world.run(3.0)
    assert world.kinds[Ask] == 0


def test_a_directory_that_is_down_at_founding_is_published_to_when_it_is_back() -> None:
    world = World()
    world.has_directory = False
    world.run(10.0)
    assert world.plan.state is JoinState.FOUNDER
    world.has_directory = True
    world.run(60.0)
    assert NodeId(IDENTITIES[0].node_id) in {found.node_id for found in open_value(world.values[KEYS[0]], wall_ns(60.0))}
