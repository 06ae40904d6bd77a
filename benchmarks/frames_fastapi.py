"""The same pictures as `frames_model.py`, sent by hand: FastAPI on uvicorn, one task a connection.

As a good engineer would write it: uvloop and httptools; JPEG in worker threads; frames by a plan (the start
plus k/30), so that a late one does not delay those after it; a frame whose time is over is skipped, so a
server that is too slow loses frames instead of showing old ones; one write a frame, and the next one begins
when it has been taken. No compression of what is compressed already. It reads no commands.

Run by `benchmarks/frames.py`; alone, `python benchmarks/frames_fastapi.py WIDTH HEIGHT` prints its URL and
serves `/ws`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct

import numpy as np
import simplejpeg
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from frames_pictures import moving_pictures

FPS = 30
PREFIX = struct.Struct(">BH")
MEDIA = 1


def encode_jpeg(pixels: np.ndarray) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(pixels, 85, colorspace="RGB", colorsubsampling="420", fastdct=True)
    return data


def encode_raw(pixels: np.ndarray) -> bytes:
    return pixels.tobytes()


def message(seq: int, pts: float, codec: str, pixels: np.ndarray, payload: bytes) -> bytes:
    height, width, _ = pixels.shape
    header = json.dumps(
        {
            "track": "main_video",
            "seq": seq,
            "pts": pts,
            "codec": codec,
            "width": width,
            "height": height,
        }
    ).encode()
    return b"".join((PREFIX.pack(MEDIA, len(header)), header, payload))


def application(pictures: list[np.ndarray], codec: str) -> FastAPI:
    app = FastAPI()

    @app.websocket("/ws")
    async def video(websocket: WebSocket) -> None:
        await websocket.accept()
        loop = asyncio.get_running_loop()
        started, seq = loop.time(), 0
        try:
            while True:
                pts = loop.time() - started
                pixels = pictures[seq % len(pictures)]
                if codec == "jpeg":
                    payload = await asyncio.to_thread(encode_jpeg, pixels)
                else:  # a copy, shorter than the way to a thread
                    payload = encode_raw(pixels)
                await websocket.send_bytes(message(seq, pts, codec, pixels, payload))
                seq = max(seq + 1, int((loop.time() - started) * FPS))
                # Even if the frame is overdue: without a checkpoint no other task would have a turn.
                await asyncio.sleep(max(0.0, started + seq / FPS - loop.time()))
        except WebSocketDisconnect:
            pass

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="Sends moving pictures, 30 a second.")
    parser.add_argument("width", type=int)
    parser.add_argument("height", type=int)
    parser.add_argument("--codec", choices=["jpeg", "raw"], default="jpeg")
    options = parser.parse_args()
    app = application(moving_pictures(options.width, options.height), options.codec)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    host, port = listener.getsockname()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws_per_message_deflate=False,
        log_level="warning",
        access_log=False,
    )
    # The socket listens already, so a client may come from this line on.
    print(f"http://{host}:{port}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
