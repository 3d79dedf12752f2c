"""`make demo`: serve asgi_app.py under uvicorn on ffloop, send it requests, and say what happened.

Everything stays on 127.0.0.1, and ends by itself: 0 is the exit status when every answer was right.
"""

import asyncio
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

import ffloop
from ffloop.__main__ import report

HERE = Path(__file__).resolve().parent
REQUESTS = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
CLIENTS = 20


def free_port():
    # Not one of those that the system hands out by itself: another program could be given it before uvicorn has it.
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


async def wait_until_served(client, server):
    for _ in range(200):
        if server.poll() is not None:
            raise RuntimeError(f"uvicorn ended early, with status {server.returncode}")
        try:
            return await client.get("/loop")
        except httpx.TransportError:
            await asyncio.sleep(0.05)
    raise TimeoutError("uvicorn did not serve within 10 seconds")


async def visit(client, number, statuses):
    """Send this client's share of the requests, each with a body of its own."""
    for index in range(REQUESTS // CLIENTS):
        body = f"client {number}, request {index}".encode()
        response = await client.post("/echo", content=body)
        if response.content != body:
            raise AssertionError(f"sent {body!r}, got {response.content!r}")
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1


async def drive(port, server):
    statuses = {}
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=30) as client:
        answer = await wait_until_served(client, server)
        print(f"the server runs on  {answer.json()['loop']}")
        print(f"the client runs on  {type(asyncio.get_running_loop()).__module__}.Loop")
        started = time.perf_counter()
        await asyncio.gather(*(visit(client, number, statuses) for number in range(CLIENTS)))
        seconds = time.perf_counter() - started
    for status, count in sorted(statuses.items()):
        print(f"HTTP {status}            {count} answers, each compared with what was sent")
    print(f"it took             {seconds:.1f} s, {REQUESTS / seconds:.0f} requests a second")
    return sum(statuses.values())


def main():
    print(report())
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--loop", "ffloop:new_event_loop", "--app-dir", str(HERE)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", "asgi_app:app"]
    server = subprocess.Popen(command)
    try:
        answers = ffloop.run(drive(port, server))
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    print(f"uvicorn stopped     with status {server.returncode}")
    if answers != REQUESTS:
        sys.exit(f"{answers} answers to {REQUESTS} requests")
    print("all is well")


if __name__ == "__main__":
    main()
