from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.local.membership import GroupMember, assign

members = st.lists(
    st.builds(
        GroupMember, st.text("abcdef", min_size=1, max_size=3), st.sets(st.sampled_from("xyz"), min_size=1).map(tuple)
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda member: member.id,
)
partitions = st.fixed_dictionaries({topic: st.integers(1, 9) for topic in "xyz"})


@given(members, partitions, st.randoms())
def test_everything_wanted_is_owned_by_one_who_wants_it(
    given_members: list[GroupMember], counts: dict[str, int], random: object
) -> None:
    owners = assign(given_members, counts)
    wants = {member.id: set(member.topics) for member in given_members}
    wanted = {(topic, n) for topics in wants.values() for topic in topics for n in range(counts[topic])}
    assert owners.keys() == wanted
    assert all(topic in wants[owner] for (topic, _), owner in owners.items())
    random.shuffle(given_members)  # type: ignore[attr-defined]  # hypothesis hands out a Random
    assert assign(given_members, counts) == owners


@given(st.integers(1, 8), st.integers(1, 40))
def test_shares_are_even_and_a_newcomer_moves_only_what_it_gets(count: int, number: int) -> None:
    group = [GroupMember(f"{n:03}", ("x",)) for n in range(count + 1)]
    before, after = assign(group[:-1], {"x": number}), assign(group, {"x": number})
    shares = [list(after.values()).count(member.id) for member in group]
    assert max(shares) - min(shares) <= 1
    moved = {place for place, owner in after.items() if before[place] != owner}
    assert moved == {place for place, owner in after.items() if owner == group[-1].id}


def test_a_topic_that_does_not_exist_is_nobodys() -> None:
    assert assign([GroupMember("a", ("ghost", "x"))], {"x": 1}) == {("x", 0): "a"}
