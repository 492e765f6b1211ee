"""How much the server takes: of one request, and of all together."""

from __future__ import annotations

from dataclasses import dataclass

from manyhot.data.images import MAX_PIXELS


@dataclass(frozen=True)
class Limits:
    """Bounds; what exceeds them is refused with the status named.

    Arguments:
        body: bytes of a request's body: 413.
        pixels: of a picture, told by its header: 413.
        pictures: of a request: 413.
        queue: pictures that are inside, in all requests together: 503.
        seconds: in which a body must arrive: 408.
        batch: pictures that go through the model together.
        wait: seconds that a decoded picture waits for others that are being decoded.
    """

    body: int = 32 * 2**20
    pixels: int = MAX_PIXELS
    pictures: int = 64
    queue: int = 256
    seconds: float = 60.0
    batch: int = 32
    wait: float = 0.005

    @property
    def held(self) -> int:
        """Bytes of bodies in memory, in all requests together: 503."""
        return 8 * self.body
