"""A client of the demo: set a prompt, upload a photograph for its colours, save the painting.

    python -m reactor_trio serve
    python examples/paint.py "a storm at night" photo.jpg

It writes `painting.jpg`, two seconds of painting later. The photograph may be left out.
"""

from __future__ import annotations

import argparse

import trio

from reactor_trio.client import Client, open_client

SECONDS = 2.0
"""Seconds to watch: a new prompt is complete after one and a half."""


async def watch(client: Client) -> bytes:
    """Return the last frame, a JPEG, of the frames of `SECONDS`."""
    picture = b""
    with trio.move_on_after(SECONDS):
        async for frame in client.frames():
            picture = frame.data
    return picture


async def main(url: str, prompt: str, photo: str | None, out: str) -> None:
    """Paint one picture."""
    async with open_client(url) as client:
        await client.call("set_prompt", prompt=prompt)
        if photo is not None:
            image = await client.upload(photo)
            reply = await client.call("set_palette_image", image=image)
            assert reply is not None
            print("colours:", *reply.data["colours"])
        print("progress:", (await client.receive("progress")).data)
        await trio.Path(out).write_bytes(await watch(client))
        print(f"{out}: what the model painted for {prompt!r}")


if __name__ == "__main__":
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("prompt")
    parser.add_argument("photo", nargs="?")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--out", default="painting.jpg")
    arguments = parser.parse_args()
    trio.run(main, arguments.url, arguments.prompt, arguments.photo, arguments.out)
