"""What is fetched: the only folder of the zoo that touches the network, and the cache of verified files.

It may import `registry` and knows no networks, so that `push` is handed its check of the weights. Importing it is cheap:
huggingface_hub waits for the functions that need it. Begin with `weights` (a model's file by the best route); `transfer` and
`servers` download, `cache` and `store` keep what was fetched and what was built, `pulling` says what `zoo pull` would do,
`lock`, `pins` and `publish` write.
"""

from zoo.hub.cache import Cache, default_folder, sha256_of
from zoo.hub.lock import Locked, lock
from zoo.hub.pins import write_pins
from zoo.hub.publish import pins_of, push
from zoo.hub.transfer import DownloadOptions, Patience
from zoo.hub.weights import (
    Pulled,
    Route,
    Verdict,
    accepted_name,
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
    "DownloadOptions",
    "Locked",
    "Patience",
    "Pulled",
    "Route",
    "Verdict",
    "accepted_name",
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
