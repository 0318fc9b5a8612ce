"""The processes that decode: limits of time, and what happens when one ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from dataclasses import asdict

import numpy as np
import psutil
import pytest
from small_index import encoded, texture

from geoloc.core.errors import InputError
from geoloc.core.images import DEFAULT_LIMITS, Picture, decode_picture
from geoloc.core.photo_facts import DroneTags, PhotoFacts
from geoloc.serving.decoder import _FACTS, DecoderLimits, DecoderPool


def decoders() -> list[int]:
    return [
        child.pid for child in psutil.Process().children() if "decoder_process" in " ".join(child.cmdline())
    ]


def test_pixels_and_facts_are_those_of_the_library() -> None:
    data = encoded(texture(7))
    pool = DecoderPool(1)
    try:
        picture = asyncio.run(pool.decode(data, DEFAULT_LIMITS, lambda one: one))
    finally:
        pool.close()
    assert np.array_equal(picture.pixels, decode_picture(data).pixels)
    assert picture.facts == decode_picture(data).facts
    assert not decoders()


def test_facts_of_every_kind_come_back_as_they_were() -> None:
    facts = PhotoFacts(270.0, True, DroneTags(altitude_m=80.5, pitch_deg=60.0))
    assert _FACTS.validate_python(json.loads(json.dumps(asdict(facts)))) == facts


def test_a_decoder_that_is_killed_or_stopped_is_replaced() -> None:
    data = encoded(texture(7))
    pool = DecoderPool(1, DecoderLimits(wall_s=2.0))

    async def shape() -> tuple[int, ...]:
        return await pool.decode(data, DEFAULT_LIMITS, lambda one: one.pixels.shape)

    async def script() -> list[object]:
        seen: list[object] = [await shape()]
        (pid,) = decoders()
        os.kill(pid, signal.SIGSTOP)  # an image that takes for ever
        with pytest.raises(InputError) as slow:
            await shape()
        seen.append(slow.value.reason)
        seen.append(await shape())
        (other,) = decoders()
        os.kill(other, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(other)], timeout=0.5)
        seen.append(await shape())
        return [*seen, pid != other]

    try:
        assert asyncio.run(script()) == [(64, 64, 3), "too_slow", (64, 64, 3), (64, 64, 3), True]
    finally:
        pool.close()


def test_only_as_many_pictures_exist_at_once_as_there_are_processes() -> None:
    data = encoded(texture(7))
    pool = DecoderPool(2)
    both, counting = threading.Barrier(2, timeout=30), threading.Lock()
    alive, most = 0, 0

    def then(picture: Picture) -> None:
        nonlocal alive, most
        with counting:
            alive += 1
            most = max(most, alive)
        both.wait()  # as long as this picture is alive, so is a second one
        with counting:
            alive -= 1

    async def script() -> None:
        await asyncio.gather(*(pool.decode(data, DEFAULT_LIMITS, then) for _ in range(20)))

    try:
        asyncio.run(script())
        assert len(decoders()) <= 2
    finally:
        pool.close()
    assert most == 2
