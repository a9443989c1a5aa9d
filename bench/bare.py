"""`python -m bench.bare PORT CA CERTIFICATE KEY CLIENT NUMBER`: receive so many messages with aiomqtt, and nothing else.

Prints the seconds. A process of its own, because the server under test is one too.
"""

import asyncio
import ssl
import sys
import time

import aiomqtt

from firmware.protocol import topics


async def receive(port: int, context: ssl.SSLContext, client: str, number: int) -> float:
    """Seconds from the first message to the last; says `ready` once it listens."""
    async with aiomqtt.Client("127.0.0.1", port, identifier=client, tls_context=context) as link:
        await link.subscribe([(topic, 1) for topic in topics.FROM_AGENTS])
        print("ready", flush=True)
        began, left = 0.0, number
        async for _ in link.messages:
            if left == number:
                began = time.perf_counter()
            left -= 1
            if not left:
                break
    return time.perf_counter() - began


def main(arguments: list[str]) -> None:
    """As the module says."""
    port, ca, certificate, key, client, number = arguments
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    print(asyncio.run(receive(int(port), context, client, int(number))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
