"""A network of two hosts, whose packets take their time, get lost, or do not arrive at all.

The first host is the network namespace that this is run in, with the address 10.9.0.1; the second is a namespace of its
own, 10.9.0.2. Prints the id of a process in the second. Takes lines: `delay MILLISECONDS` for each way, `loss PERCENT`,
and `silent PORT`, from or to which no packet arrives; 0 ends each. Ends with its input.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 1, 0x1000, 0x40000000
FIRST, SECOND = "10.9.0.1", "10.9.0.2"


def interface(address, peer):
    """A descriptor that gives and takes the packets of a new interface."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"way", IFF_TUN | IFF_NO_PI))
    for command in (f"addr add {address} peer {peer} dev way", "link set way up", "link set lo up"):
        subprocess.run(["ip", *command.split()], check=True)
    return tun


def second_host():
    """Forks a process into a namespace of its own; its id, and the descriptor of its interface."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        socket.send_fds(theirs, [b"x"], [interface(SECOND, FIRST)])
        theirs.recv(1)  # Until the parent is gone.
        os._exit(0)
    theirs.close()
    _, (tun,), _, _ = socket.recv_fds(ours, 1, 1)
    return child, ours, tun


def ports(packet):
    """Of a TCP packet of IPv4."""
    start = (packet[0] & 15) * 4
    return struct.unpack_from("!HH", packet, start) if packet[9] == 6 else ()


def main():
    random.seed(int(sys.argv[1]))
    child, _leash, second = second_host()
    first = interface(FIRST, SECOND)
    print(child, flush=True)
    state = {"delay": 0, "loss": 0, "silent": 0}
    waiting, count = [], 0
    while True:
        pause = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([first, second, sys.stdin], [], [], pause)
        if sys.stdin in ready:
            words = sys.stdin.readline().split()
            if not words:
                return
            state[words[0]] = int(words[1])
        for here, there in ((first, second), (second, first)):
            if here in ready:
                packet = os.read(here, 65536)
                lost = random.uniform(0, 100) < state["loss"] or state["silent"] in ports(packet)
                if packet[0] >> 4 == 4 and not lost:
                    count += 1
                    heapq.heappush(waiting, (time.monotonic() + state["delay"] / 1000, count, there, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, there, packet = heapq.heappop(waiting)
            os.write(there, packet)


main()
