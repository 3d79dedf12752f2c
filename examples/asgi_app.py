"""An ASGI application, served on ffloop by uvicorn:

uvicorn --loop ffloop:new_event_loop --app-dir examples asgi_app:app
"""

import asyncio
import json


async def app(scope, receive, send):
    """Say hello, echo a request's body, or tell which loop runs."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/echo":
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
    elif scope["path"] == "/loop":
        loop = asyncio.get_running_loop()
        body = json.dumps({"loop": f"{type(loop).__module__}.{type(loop).__qualname__}"}).encode()
    else:
        body = b"Hello from ffloop\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
