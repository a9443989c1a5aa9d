"""A host's packages on their way: a difference leads where it says, and what is hostile is refused."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.host_packages import (
    MAX_PACKAGES,
    MAX_TOLD_BYTES,
    PENDING,
    Gone,
    HostFacts,
    HostState,
    Offered,
    PackageHere,
    Telling,
    applied,
    chunk_of,
    chunk_sha256,
    decode_chunk,
    digest_of,
    encode_chunk,
    host_state,
    pack,
    telling,
    unpack,
)
from firmware.protocol.codec import canonical

VERSIONS = st.sampled_from(["1", "2", "2:3~rc1-1"])
PACKAGES = st.dictionaries(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["all", "amd64"])),
    st.tuples(VERSIONS, st.sampled_from(["", "src-one", "src-two"])),
)
OFFERS = st.dictionaries(st.sampled_from("abcdefgh"), VERSIONS)
STATES = st.builds(
    lambda kernel, packages, offers: host_state(
        HostFacts(kernel=kernel),
        [PackageHere(name=n, arch=a, version=v, source=s) for (n, a), (v, s) in packages.items()],
        [Offered(name=n, arch="all", before="0", version=v, is_security=v == "2") for n, v in offers.items()],
    ),
    st.sampled_from(["6.1", "6.2"]),
    PACKAGES,
    OFFERS,
)


def here(name: str, version: str = "1", **fields: str) -> PackageHere:
    return PackageHere(name=name, arch="all", version=version, **fields)  # type: ignore[arg-type]


@given(STATES, STATES)
def test_a_difference_leads_from_one_state_to_the_other_by_the_chunks_it_touches_alone(
    before: HostState, after: HostState
) -> None:
    told = unpack(pack(telling(before, after)))
    touched = {number: chunk for number, chunk in before.chunks.items() if number in told.touches}
    changed = applied(touched, told)
    hashes = {number: chunk_sha256(chunk) for number, chunk in (before.chunks | changed).items() if chunk}
    assert digest_of(told.facts, hashes) == after.digest
    assert {number: chunk for number, chunk in (before.chunks | changed).items() if chunk} == after.chunks
    assert (before.digest == after.digest) is (before == after)


@given(STATES)
def test_a_chunk_has_one_form_and_comes_back(state: HostState) -> None:
    for number, chunk in state.chunks.items():
        assert decode_chunk(number, encode_chunk(chunk)) == chunk
        assert encode_chunk(dict(reversed(chunk.items()))) == encode_chunk(chunk)
    whole = unpack(pack(telling(None, state)))
    assert applied({}, whole) == state.chunks


def test_packages_of_one_source_are_in_one_chunk() -> None:
    state = host_state(HostFacts(), [here("libssl3", source="openssl"), here("openssl"), here("zlib1g")], [])
    assert {one.name for one in state.chunks[chunk_of("openssl")].values()} >= {"libssl3", "openssl"}


def test_what_the_wire_does_not_take_is_left_out_and_counted() -> None:
    packages = [here("good"), here("bad name"), here("worse", version="1 2"), here("x" * 300)]
    offers = [Offered(name="good", arch="all", before="1", version="2", is_security=True, sha256="no hash")]
    state = host_state(HostFacts(left_out=0), packages, offers)
    assert [list(chunk) for chunk in state.chunks.values()] == [["good:all"]]
    assert state.facts.left_out == 4


def test_of_too_many_packages_the_first_are_told() -> None:
    state = host_state(HostFacts(), [here(f"p{n:05}") for n in range(MAX_PACKAGES + 3)], [])
    assert state.facts.left_out == 3
    assert len(unpack(pack(telling(None, state))).packages) == MAX_PACKAGES


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "malformed"),
        (b"no zlib", "malformed"),
        (zlib.compress(b"[]"), "malformed"),
        (zlib.compress(b"{}")[:-1], "malformed"),
        (zlib.compress(b'{"facts":{}}') + b"x", "malformed"),
        (zlib.compress(b'{"facts":{},"more":1}'), "malformed"),
        (zlib.compress(b'{"facts":{},"facts":{}}'), "malformed"),
        (zlib.compress(b" " * (MAX_TOLD_BYTES + 1)), "too-large"),
        (zlib.compress(canonical(Telling(facts=HostFacts(), packages=[here("a"), here("a", "2")]))), "malformed"),
        (zlib.compress(canonical(Telling(facts=HostFacts(), packages=[here("../a")]))), "malformed"),
        (zlib.compress(canonical(Telling(facts=HostFacts(kernel="k" * 129)))), "malformed"),
        (zlib.compress(canonical(Telling(facts=HostFacts(services_to_restart=["s"] * 257)))), "malformed"),
    ],
)
def test_what_pack_did_not_make_is_refused(data: bytes, kind: str) -> None:
    with pytest.raises(RefusedError) as refused:
        unpack(data)
    assert refused.value.kind == kind


def test_a_bomb_is_not_blown_up() -> None:
    bomb = zlib.compress(b'{"facts":{"kernel":"' + b"a" * (256 << 20), 9)
    assert len(bomb) < 1 << 20
    with pytest.raises(RefusedError, match="bytes"):
        unpack(bomb)


def test_what_is_gone_and_was_never_there_is_nothing() -> None:
    told = Telling(facts=HostFacts(), gone=[Gone(key="a:all", source="a")], pending_gone=["a:all"])
    assert applied({}, told) == {chunk_of("a"): {}, PENDING: {}}


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    for candidate in (data, zlib.compress(data)):
        with pytest.raises(RefusedError, match=r"."):
            unpack(candidate)
