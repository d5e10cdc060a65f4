"""Where bytes are kept: one protocol, one implementation for each kind of place."""

from raypose.storage.base import ObjectStore, StoredObject, open_store

__all__ = ["ObjectStore", "StoredObject", "open_store"]
