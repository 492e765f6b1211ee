"""Which pictures are meant, by paths, lists, tables or addresses, and their way into memory."""

from manyhot.inference.pictures.fetching import Fetched
from manyhot.inference.pictures.listing import list_manifest, list_pictures

__all__ = ["Fetched", "list_manifest", "list_pictures"]
