"""Tiny recordings on disk: the grey level of a frame is ten times its number."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 20


def grey_frame(path, level, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), level, np.uint8)).save(path)


def frames(folder, numbers, digits=6, suffix=".png"):
    for number in numbers:
        grey_frame(folder / f"{number:0{digits}d}{suffix}", 10 * number % 256)
    return folder


def noise_frame(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def cut(path, keep=0.6):
    """Cut a file short, as an interrupted copy does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def scar(path):
    """Damage the inside of a PNG, but not its end: only decoding tells."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(8)
    path.write_bytes(bytes(content))


def level(image):
    return round(255 * float(image.mean()))


def film(path, pictures, codec = "mjpeg", times = (), **options
):  # fmt: skip
    """Write pictures (h w 3), RGB, as a video: 10 frames per second, or at `times` in 1/100 s."""
    pictures = list(pictures)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"qmin": "1", "qmax": "2"} | options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 100)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage_frames(path, *places):
    """Overwrite the compressed frames at these places of a video by zeros."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    for pos, size in (packets[place] for place in places):
        content[pos + 8 : pos + size] = bytes(size - 8)  # AVI has 8 bytes of a chunk header
    path.write_bytes(content)
    return path
