"""Where a call comes from, behind proxies that are trusted and behind others."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimpse.server.access.call_metadata import read_metadata
from glimpse.server.access.forwarded import Proxies, parse
from glimpse.server.settings import Settings
from tests.server.access.inside import IN, Inside, channel, classify, until

PROXIES = Proxies([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8:1::/48")])


@pytest.mark.parametrize(
    ("connected", "header", "caller"),
    [
        ("10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "198.51.100.1, 192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "198.51.100.1,192.0.2.7 , 10.3.3.3", "192.0.2.7"),
        ("10.0.0.1", "10.9.9.9, 10.3.3.3", "10.9.9.9"),
        ("2001:db8:1::", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "192.0.2.7:4000", "192.0.2.7"),
        ("10.0.0.1", "2001:db8:2::9", "2001:db8:2::9"),
        ("10.0.0.1", "[2001:db8:2::9]:4000", "2001:db8:2::9"),
        ("10.0.0.1", "::ffff:192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "fe80::1%eth0", "fe80::1"),
        # Nothing that a proxy wrote: the address of the connection counts.
        ("192.0.2.1", "198.51.100.1", ""),
        ("10.0.0.1", "", ""),
        ("10.0.0.1", "198.51.100.1,", ""),
        ("10.0.0.1", "198.51.100.1, unknown", ""),
        ("10.0.0.1", "198.51.100.1, 192.0.2.999", ""),
        ("10.0.0.1", "198.51.100.1, 192.0.2.7:http", ""),
        ("10.0.0.1", "[2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]x", ""),
        ("10.0.0.1", "1" * 1000, ""),
        ("unix:/run/glimpse.sock", "198.51.100.1", ""),
    ],
)
def test_the_caller_is_the_first_from_the_right_who_is_no_trusted_proxy(
    connected: str, header: str, caller: str
) -> None:
    assert PROXIES.caller(connected, header) == caller


@given(st.lists(st.text(max_size=40) | st.ip_addresses().map(str), max_size=40), st.ip_addresses())
def test_what_a_caller_writes_left_of_a_proxy_s_own_entry_changes_nothing(
    forged: list[str], caller: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    expected = PROXIES.caller("10.0.0.1", str(caller))
    if not any(caller in network for network in PROXIES._trusted):
        assert PROXIES.caller("10.0.0.1", ",".join([*forged, str(caller)])) == expected


@given(st.text())
def test_any_text_is_an_address_or_none(text: str) -> None:
    found = parse(text)
    assert found is None or parse(str(found)) == found


def test_a_header_that_names_a_thousand_proxies_is_read_to_a_bound() -> None:
    assert PROXIES.caller("10.0.0.1", ",".join(f"10.0.{n // 250}.{n % 250}" for n in range(1000))) == "10.0.3.218"


@pytest.mark.parametrize("trusted", ["2001:db8:1::/48", "2001:db8:1::7/128"])
def test_a_proxy_may_have_an_address_of_ipv6(trusted: str) -> None:
    """It is trusted by its own address, though limits count its 64-bit network."""
    header, proxies = [("x-forwarded-for", "192.0.2.7")], Proxies([ipaddress.ip_network(trusted)])
    call, _ = read_metadata(header, "method", "ipv6:%5B2001:db8:1::7%5D:4000", proxies)
    assert (call.address, call.host) == ("192.0.2.7", "192.0.2.7")
    other, _ = read_metadata(header, "method", "ipv6:%5B2001:db8:2::7%5D:4000", proxies)
    assert (other.address, other.host) == ("", "2001:db8:2::/64")
    local, _ = read_metadata(header, "method", "unix:", proxies)
    assert local.address == ""


def test_nothing_is_remembered_of_what_strangers_send() -> None:
    """Each may send a header of many kilobytes, and each another one."""
    proxies = Proxies([ipaddress.ip_network("10.0.0.0/8")])
    for number in range(100):
        assert not proxies.caller("192.0.2.1", f"198.51.100.{number}," * 100)
    assert proxies._farthest.cache_info().currsize == 0


def test_without_trusted_proxies_the_header_says_nothing() -> None:
    call, _ = read_metadata([("x-forwarded-for", "192.0.2.7")], "method", "ipv4:10.0.0.1:4000", None)
    assert (call.address, call.host) == ("", "10.0.0.1")


def test_limits_count_for_the_forwarded_address_and_an_ipv6_one_by_its_64() -> None:
    header = [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "2001:db8:2:3:4::9")]
    call, _ = read_metadata(header, "method", "ipv4:10.0.0.1:4000", PROXIES)
    assert (call.address, call.host) == ("2001:db8:2:3:4::9", "2001:db8:2:3::/64")
    assert call.of_request().host == call.host


@pytest.mark.parametrize("name", ["a" * 129, "two\nlines", "bell\a", "ümlaut", "", b"\xff\xfe"])
def test_a_name_or_an_id_that_is_no_short_plain_text_counts_as_none(name: str | bytes) -> None:
    call, _ = read_metadata([("glimpse-client", name), ("x-request-id", name)], "method", "ipv4:10.0.0.1:4000", None)
    assert call.client == ""
    assert call.request_id != name
    assert len(call.request_id) == 32


def test_the_setting_takes_addresses_and_networks() -> None:
    settings = Settings(trusted_proxies="10.0.0.0/8, 192.0.2.1,2001:db8::/32")  # type: ignore[arg-type, call-arg]
    assert [str(each) for each in settings.trusted_proxies] == ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]
    for wrong in ("10.0.0.5/8", "proxy.example.org", "10.0.0.0/33"):
        with pytest.raises(ValueError, match="trusted_proxies"):
            Settings(trusted_proxies=wrong)  # type: ignore[arg-type, call-arg]


@pytest.mark.parametrize("trusted", ["127.0.0.0/8", "192.0.2.0/24"])
def test_callers_behind_one_proxy_have_a_rate_each_where_it_is_trusted(
    inside: Callable[..., Inside], tmp_path: Path, trusted: str
) -> None:
    audit = tmp_path / "audit.jsonl"
    running = inside(trusted_proxies=trusted, rate_limit=0.001, rate_burst=1, audit_log=audit)
    with channel(running.target) as proxy:
        told = [
            classify(proxy, (("x-forwarded-for", f"203.0.113.9, {caller}"),))
            for caller in ("198.51.100.1", "198.51.100.2", "198.51.100.1")
        ]
    until(lambda: audit.read_text().count("\n") == 3)
    addresses = [json.loads(line).get("address") for line in audit.read_text().splitlines()]
    if trusted == "127.0.0.0/8":
        assert told == [IN, IN, "RATE_LIMITED"]
        assert addresses == ["198.51.100.1", "198.51.100.2", "198.51.100.1"]
    else:
        assert told == [IN, "RATE_LIMITED", "RATE_LIMITED"]
        assert addresses == [None] * 3
