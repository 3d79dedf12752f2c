"""The ASGI application that uvicorn and hypercorn serve in the tests."""

import asyncio
import hashlib
import json
import os

gone = 0


async def app(scope, receive, send):
    await {"http": http, "websocket": websocket, "lifespan": lifespan}[scope["type"]](scope, receive, send)


async def lifespan(scope, receive, send):
    while True:
        what = (await receive())["type"]
        await send({"type": f"{what}.complete"})
        if what == "lifespan.shutdown":
            print("the application was shut down", flush=True)
            return


async def http(scope, receive, send):
    global gone
    name, _, argument = scope["path"][1:].partition("/")
    length, digest, pieces = 0, hashlib.sha256(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            gone += 1
            return
        body = message.get("body", b"")
        length, pieces = length + len(body), pieces + 1
        digest.update(body)
        if not message.get("more_body"):
            break
    if name == "size":
        answer = bytes(range(256)) * (int(argument) // 256) + bytes(int(argument) % 256)
    elif name == "digest":
        answer = json.dumps({"length": length, "digest": digest.hexdigest()}).encode()
    elif name == "endless":
        await endless(receive, send)
        return
    else:
        answer = json.dumps({"gone": gone, "pid": os.getpid(), "http": scope["http_version"]}).encode()
    headers = [(b"content-length", str(len(answer)).encode())] if name == "size" else []
    await send({"type": "http.response.start", "status": 404 if name == "none" else 200, "headers": headers})
    if name == "slow":
        print("a slow request runs", flush=True)
        for _ in range(10):
            await asyncio.sleep(0.1)
            await send({"type": "http.response.body", "body": b"piece ", "more_body": True})
    await send({"type": "http.response.body", "body": answer})


async def endless(receive, send):
    """Send until the client goes away."""
    global gone
    await send({"type": "http.response.start", "status": 200, "headers": []})
    left = asyncio.ensure_future(receive())
    while not left.done():
        try:
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        except OSError:
            break
        await asyncio.sleep(0)
    left.cancel()
    gone += 1


async def websocket(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            print(f"the websocket was closed with {message['code']}", flush=True)
            return
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "asked for"})
            return
        await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
