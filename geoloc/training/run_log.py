"""What a run says of itself: a line of numbers every few steps, for a file, for people, and for TensorBoard."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any

from geoloc.core.errors import ConfigError

_LOG_LINES = 200  # of a run


def log_every(steps: int) -> int:
    """Steps from one line to the next; the same lines whether a run was interrupted or not."""
    return max(1, steps // _LOG_LINES)


def time_left(seconds: float) -> str:
    """`3 min left` and the like."""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


@dataclass
class RunLog:
    """The lines of a run, as `metrics.jsonl` keeps them; with `tensorboard`, a folder, as scalars there too."""

    tensorboard: str | None = None
    lines: list[dict[str, float]] = field(default_factory=list)
    _writer: Any = None

    def add(self, line: dict[str, float]) -> None:
        """Add a line; one of the same step is completed."""
        if self.lines and self.lines[-1]["step"] == line["step"]:
            self.lines[-1] |= line
        else:
            self.lines.append(line)
        if self.tensorboard is not None:
            if self._writer is None:
                self._writer = _summary_writer(self.tensorboard)
            for name, value in line.items():
                if name != "step":
                    self._writer.add_scalar(f"train/{name}", value, int(line["step"]))
            self._writer.flush()


def check_tensorboard() -> None:
    """Raise `ConfigError` where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "TensorBoard is not installed: pip install 'geoloc[tensorboard]', or leave --tensorboard out; "
            "metrics.jsonl has the same numbers."
        )


def _summary_writer(folder: str) -> Any:
    check_tensorboard()
    return importlib.import_module("torch.utils.tensorboard").SummaryWriter(folder)
