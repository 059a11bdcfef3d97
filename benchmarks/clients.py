"""Clients of a server at a Unix socket: `python -m benchmarks.clients PATH SEED` keeps it busy until it is killed."""

from __future__ import annotations

import asyncio
import sys
import time
from random import Random


async def client(path: str, random: Random, *, pause: float, work: float) -> list[float]:
    """Ask again and again, until cancelled or the server ends the connection.

    Args:
        path: of the socket.
        random: what the pauses and the work are drawn from, exponentially distributed.
        pause: mean seconds between an answer and the next request.
        work: mean seconds of computing that are asked for; 0 for nothing but an echo.

    Returns:
        Seconds that each answer took.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    latencies: list[float] = []
    try:
        while True:
            await asyncio.sleep(random.expovariate(1 / pause))
            request = random.expovariate(1 / work) if work else 0.0
            begin = time.perf_counter()
            writer.write(f"{request}\n".encode())
            if not await reader.readline():
                return latencies
            latencies.append(time.perf_counter() - begin)
    except (asyncio.CancelledError, ConnectionError):
        return latencies
    finally:
        writer.close()


async def _load(path: str, seed: int) -> None:
    await asyncio.gather(*(client(path, Random(seed + k), pause=0.02, work=0.004) for k in range(4)))


if __name__ == "__main__":
    asyncio.run(_load(sys.argv[1], int(sys.argv[2])))
