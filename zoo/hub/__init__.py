"""The only package of the zoo that touches the network: fetch, verify, publish and pin files.

Importing it is cheap; huggingface_hub is imported by the functions that need it.
"""

from zoo.hub.cache import Cache, default_folder, sha256_of
from zoo.hub.lock import Locked, lock
from zoo.hub.pins import write_pins
from zoo.hub.publish import pins_of, push
from zoo.hub.transfer import Options, Patience
from zoo.hub.weights import (
    Pulled,
    Route,
    Verdict,
    bundled_file,
    cache_entries,
    fetch,
    fetch_with,
    pinned,
    pull_many,
    routes,
    verify_all,
)

__all__ = [
    "Cache",
    "Locked",
    "Options",
    "Patience",
    "Pulled",
    "Route",
    "Verdict",
    "bundled_file",
    "cache_entries",
    "default_folder",
    "fetch",
    "fetch_with",
    "lock",
    "pinned",
    "pins_of",
    "pull_many",
    "push",
    "routes",
    "sha256_of",
    "verify_all",
    "write_pins",
]
