"""A nameserver of the lab: UDP on loopback, answers in DNS's own format, from what it is told about names.

The machine's resolver knows nothing of it: a program has to be told its address.
"""

from __future__ import annotations

import socket
import threading
import traceback
from collections.abc import Callable, Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

Lookup = Callable[[str, str], tuple[int, list[str]] | None]
"""Name without the last dot and type to TTL and values; no values: none of that type; None: there is no such name."""
Knows = Callable[[str], bool]
"""Whether a name lies where this server has authority."""
CHAIN = 8


class Nameserver:
    """Answers until it is closed.

    :param port: 0 takes a free one.
    """

    def __init__(self, lookup: Lookup, knows: Knows, port: int = 0) -> None:
        self._lookup, self._knows = lookup, knows
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.silent = False
        """Asks get no answer, as if every packet were lost."""
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                packet, sender = self._socket.recvfrom(4096)
            except OSError:
                return
            if self.silent:
                continue
            try:
                self._socket.sendto(self.answer(dns.message.from_wire(packet)).to_wire(), sender)
            except (OSError, dns.exception.DNSException):
                pass  # no question, or nobody who waits
            except Exception:
                traceback.print_exc()  # one question that goes wrong must not end all answers

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """The answer to a question, with the whole chain of CNAMEs that leads to it."""
        response = dns.message.make_response(query)
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP)
            return response
        question = query.question[0]
        name, kind = _plain(question.name), dns.rdatatype.to_text(question.rdtype)
        if not self._knows(name):
            response.set_rcode(dns.rcode.REFUSED)
            return response
        response.flags |= dns.flags.AA
        for _ in range(CHAIN):
            found = self._lookup(name, kind)
            if found is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                break
            alias = self._lookup(name, "CNAME")
            if alias and alias[1]:
                target = _bare(alias[1][0])
                response.answer.append(dns.rrset.from_text(f"{name}.", alias[0], "IN", "CNAME", f"{target}."))
                if kind == "CNAME":
                    break
                name = target
            else:
                if found[1]:
                    response.answer.append(dns.rrset.from_text(f"{name}.", found[0], "IN", kind, *found[1]))
                break
            if not self._knows(name):
                break
        return response


def _plain(name: dns.name.Name) -> str:
    return _bare(name.to_text())


def _bare(name: str) -> str:
    return name.rstrip(".").lower()


def resolver(nameserver: str, seconds: float = 5.0) -> dns.resolver.Resolver:
    """Asks that nameserver (host:port) only, and remembers nothing."""
    host, _, port = nameserver.rpartition(":")
    made = dns.resolver.Resolver(configure=False)
    made.nameservers, made.port, made.lifetime = [host], int(port), seconds
    return made


def resolve(nameserver: str, name: str) -> str:
    """The address of a name.

    :raises dns.exception.DNSException: there is none.
    """
    answers: Sequence[object] = list(resolver(nameserver).resolve(f"{name}.", "A"))
    return str(answers[0])
