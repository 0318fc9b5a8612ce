"""What each simulated client does, for locust: post photos one after the other. `geoloc bench serve` starts it.

The folder in the environment variable `GEOLOC_BENCH_PHOTOS` holds multipart bodies, `GEOLOC_BENCH_BOUNDARY` is their
boundary. Importing locust changes Python's own sockets and threads, so no other module imports this one.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from locust import FastHttpUser, constant, task


class Client(FastHttpUser):
    """One client without a pause between its requests."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Read the bodies once."""
        boundary = os.environ["GEOLOC_BENCH_BOUNDARY"]
        self.headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        folder = Path(os.environ["GEOLOC_BENCH_PHOTOS"])
        self.bodies = [path.read_bytes() for path in sorted(folder.iterdir())]

    @task
    def localize(self) -> None:
        """Post one photo; anything but an answer from all shards is a failure."""
        body = random.choice(self.bodies)  # noqa: S311 (which photo is no secret)
        session: Any = self.client
        with session.post("/v1/localize", data=body, headers=self.headers, catch_response=True) as answer:
            if answer.status_code == 200:
                document = answer.json()
                if document["shards_answered"] < document["shards_total"]:
                    answer.failure("not from all shards")
