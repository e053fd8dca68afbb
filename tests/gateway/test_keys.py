"""Keys: made with chance enough, known by their hash, and found in one look."""

import re
from hashlib import sha256

import pytest

from redis_router import InvalidArgument
from redis_router.gateway.keys import Keys, hashed, new_key
from redis_router.gateway.settings import Key


def test_a_new_key_has_256_bits_for_a_header_or_a_url():
    """43 characters of base64, and no two alike."""
    made = {new_key() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"sk-rr-[A-Za-z0-9_-]{43}", key) for key in made)


def test_the_hash_is_what_sha256sum_prints():
    """So that others can make it."""
    assert hashed("sk-rr-abc") == sha256(b"sk-rr-abc").hexdigest()


def test_a_key_is_known_by_its_owner():
    """And nobody else's is."""
    first, second = new_key(), new_key()
    keys = Keys([Key("alice", hashed(first)), Key("bob", hashed(second))])
    assert (keys.named(first.encode()), keys.named(second.encode())) == ("alice", "bob")
    assert len(keys) == 2


@pytest.mark.parametrize("presented", [b"", b"sk-rr-", b"\xff\xfe", b"a" * 100_000, hashed("k").encode()])
def test_others_are_nobody(presented):
    """The hash itself is no key."""
    assert Keys([Key("alice", hashed("k"))]).named(presented) is None


def test_without_keys_nobody_is_known():
    """Whether anyone may ask is not decided here."""
    assert Keys([]).named(b"sk-rr-abc") is None


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, hashed("k").upper(), hashed("k") + "\n", hashed("")])
def test_hashes_that_are_none(digest):
    """The hash of nothing would let in who presents nothing."""
    with pytest.raises(InvalidArgument, match="64 hexadecimal digits"):
        Keys([Key("alice", digest)])


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "é", "a" * 65])
def test_names_that_cannot_be_labels(name):
    """They stand in the log and in metrics."""
    with pytest.raises(InvalidArgument, match="not usable"):
        Keys([Key(name, hashed("k"))])


@pytest.mark.parametrize("second", [Key("alice", hashed("other")), Key("bob", hashed("k"))])
def test_two_of_one_name_or_hash(second):
    """Nobody could say which is meant."""
    with pytest.raises(InvalidArgument, match="twice"):
        Keys([Key("alice", hashed("k")), second])


def test_the_repr_of_a_key_has_no_hash():
    """Settings are logged now and then."""
    assert hashed("k") not in repr(Key("alice", hashed("k")))
