"""Socket filters: which new connections the kernel drops, and to which socket it sends the others, by their address.

Programs for its packet filter (the classic one, which needs no privilege; see `socket(7)` on SO_ATTACH_FILTER and
SO_ATTACH_REUSEPORT_CBPF, and the kernel's documentation, networking/filter), on the listening sockets. Linux only.

A connection request (SYN) that is dropped costs neither a thread nor a descriptor, and the other side sees no refusal:
TCP repeats the request after one second, then after two and so on, and the first one after the block is accepted.
"""

from __future__ import annotations

import ctypes
import ipaddress
import secrets
import socket
import struct
from collections.abc import Iterable

from glimpse.server.sockets import connections

MOST = 128  # addresses in one filter: it is gone through for each packet of a connection that begins
# Of asm-generic/socket.h: SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_ATTACH_REUSEPORT_CBPF. Python does not name them.
_ATTACH, _DETACH, _CHOOSE = 26, 27, 51
# Instructions of linux/bpf_common.h.
_LOAD_WORD, _LOAD_BYTE, _AND, _JUMP, _IF_EQUAL, _RETURN = 0x20, 0x30, 0x54, 0x05, 0x15, 0x06
_KEEP, _XOR_KEPT, _TIMES, _SHIFT_RIGHT, _RETURN_RESULT = 0x07, 0xAC, 0x24, 0x74, 0x16
_LOAD_NUMBER, _LOAD_HALF_BEYOND_KEPT, _SHIFT_LEFT, _STORE, _LOAD_STORED, _PLUS_KEPT = 0x00, 0x48, 0x64, 0x02, 0x60, 0x0C
_MIX = 0x9E37_79B1  # odd, and half of its bits are set: all bits of a product with it depend on those below
_PACKET = 0x1_0000_0000 - 0x10_0000  # SKF_NET_OFF: where the header of IP begins, in 32 bits
_DROP, _TAKE = 0, 0xFFFF_FFFF
_SOURCE_V4, _SOURCE_V6 = 12, 8  # where the two headers have the address of the sender

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Instruction = tuple[int, int, int, int]  # code, jump if so, jump if not, operand


def drop_new(port: int, networks: Iterable[Network]) -> bool:
    """Have the kernel drop new connections to `port` from these `networks`, and from no others.

    Args:
        port: on which this process listens.
        networks: IPv4 addresses (/32) and IPv6 networks (/64); the first `MOST` count. None: nothing is dropped.

    Returns:
        Whether the kernel does so; else new connections have to be closed as they come.
    """
    program = _program(list(networks)[:MOST])
    done = False
    for each in connections.listening(port):
        try:
            if program:
                _attach(each, _ATTACH, program)
            else:
                each.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
        except OSError:  # no such filters, as in some sandboxes; or there was none to detach
            return not program
        done = True
    return done


def spread(port: int, sockets: int, *, workers: int = 1, secret: int | None = None) -> bool:
    """Have all connections of one address (IPv6: of a /64) come to one of the sockets that share `port`.

    With several workers they come to one socket of each worker, by the port that a connection comes from: the sockets
    of a worker are neighbours, so that the socket is ``(port's hash mod workers) * sockets + (address's hash mod
    sockets)``. Where a number is beyond the last socket, as while workers are started, the kernel takes any.

    Args:
        port: on which this process listens, with `sockets` sockets for each address that it listens on.
        sockets: how many each worker has; all workers together 65,536 at most.
        workers: processes that listen on the port, each with as many sockets.
        secret: an odd number of 32 bits, the same for all workers; None: one of its own.

    Returns:
        Whether the kernel does so; else it spreads connections by their ports, too.
    """
    program = _spreading(sockets, workers, secrets.randbits(32) | 1 if secret is None else secret)
    done = False
    for each in connections.listening(port):
        try:
            _attach(each, _CHOOSE, program)
        except OSError:  # no such filters, as in some sandboxes
            return False
        done = True
    return done


def _spreading(sockets: int, workers: int, mix: int) -> list[_Instruction]:
    """The program that chooses a socket. `mix` is secret, so that nobody can choose an address that shares a socket."""
    address: list[_Instruction] = [
        (_LOAD_BYTE, 0, 0, _PACKET),
        (_AND, 0, 0, 0xF0),
        (_IF_EQUAL, 0, 6, 0x60),  # version 6 of IP
        (_LOAD_WORD, 0, 0, _PACKET + _SOURCE_V6),
        (_TIMES, 0, 0, mix),
        (_KEEP, 0, 0, 0),
        (_LOAD_WORD, 0, 0, _PACKET + _SOURCE_V6 + 4),
        (_XOR_KEPT, 0, 0, 0),
        (_JUMP, 0, 0, 1),
        (_LOAD_WORD, 0, 0, _PACKET + _SOURCE_V4),
        # Of a product only the highest bits depend on all of the address; else those who share its lowest bits would
        # share a socket, whatever the secret is.
        (_TIMES, 0, 0, mix),
        (_KEEP, 0, 0, 0),
        (_SHIFT_RIGHT, 0, 0, 16),
        (_XOR_KEPT, 0, 0, 0),
        *_scaled(sockets),
    ]
    if workers == 1:
        return [*address, (_RETURN_RESULT, 0, 0, 0)]
    return [
        *address,
        (_STORE, 0, 0, 0),
        # Where the header of TCP begins, which has the sender's port first: behind that of IP, whose length version 4
        # says in words of 32 bits, and which in version 6 has 40 bytes.
        (_LOAD_BYTE, 0, 0, _PACKET),
        (_AND, 0, 0, 0xF0),
        (_IF_EQUAL, 0, 2, 0x60),
        (_LOAD_NUMBER, 0, 0, 40),
        (_JUMP, 0, 0, 3),
        (_LOAD_BYTE, 0, 0, _PACKET),
        (_AND, 0, 0, 0x0F),
        (_SHIFT_LEFT, 0, 0, 2),
        (_KEEP, 0, 0, 0),
        (_LOAD_HALF_BEYOND_KEPT, 0, 0, _PACKET),
        (_TIMES, 0, 0, mix),
        (_KEEP, 0, 0, 0),
        (_SHIFT_RIGHT, 0, 0, 16),
        (_XOR_KEPT, 0, 0, 0),
        *_scaled(workers),
        (_TIMES, 0, 0, sockets),
        (_KEEP, 0, 0, 0),
        (_LOAD_STORED, 0, 0, 0),
        (_PLUS_KEPT, 0, 0, 0),
        (_RETURN_RESULT, 0, 0, 0),
    ]


def _scaled(numbers: int) -> list[_Instruction]:
    """Mix what is loaded and make it one of 0 to `numbers` - 1, each as likely."""
    return [(_TIMES, 0, 0, _MIX), (_SHIFT_RIGHT, 0, 0, 16), (_TIMES, 0, 0, numbers), (_SHIFT_RIGHT, 0, 0, 16)]


def _program(networks: list[Network]) -> list[_Instruction]:
    """The filter's instructions; none for no networks."""
    if not networks:
        return []
    fourth: list[_Instruction] = [(_LOAD_WORD, 0, 0, _PACKET + _SOURCE_V4)]
    sixth: list[_Instruction] = []
    for network in networks:
        source = network.network_address.packed
        if isinstance(network, ipaddress.IPv4Network):
            fourth += (_IF_EQUAL, 0, 1, int.from_bytes(source)), (_RETURN, 0, 0, _DROP)
        else:
            sixth += (
                (_LOAD_WORD, 0, 0, _PACKET + _SOURCE_V6),
                (_IF_EQUAL, 0, 3, int.from_bytes(source[:4])),
                (_LOAD_WORD, 0, 0, _PACKET + _SOURCE_V6 + 4),
                (_IF_EQUAL, 0, 1, int.from_bytes(source[4:8])),
                (_RETURN, 0, 0, _DROP),
            )
    take = (_RETURN, 0, 0, _TAKE)
    return [
        (_LOAD_BYTE, 0, 0, _PACKET),
        (_AND, 0, 0, 0xF0),
        (_IF_EQUAL, 0, 1, 0x60),  # version 6 of IP
        (_JUMP, 0, 0, len(fourth) + 1),
        *fourth,
        take,
        *sixth,
        take,
    ]


def _attach(listening: socket.socket, option: int, program: list[_Instruction]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    listening.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(program), ctypes.addressof(code)))
