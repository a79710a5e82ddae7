"""Where the checkout is, where compiled programs are kept, and what processes of tests find. Before JAX is loaded."""

import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]


def cache_folder(flags: str) -> Path:
    """Where programs are kept between runs of the tests: outside the checkout, so that a fresh clone starts warm.

    One folder for each compiler, flags and processor: no program is served that another compiler would have made.
    """
    cpu = Path("/proc/cpuinfo")
    features = (
        [line for line in cpu.read_text().splitlines() if line.startswith(("flags", "Features"))]
        if cpu.exists()
        else []
    )
    said = (version("jax"), version("jaxlib"), flags, platform.machine(), *features[:1])
    key = hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home, "byzjax", "tests", f"jaxlib-{version('jaxlib')}-{key}")


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process that a test starts; where its flags differ, it keeps its programs elsewhere."""
    other = {**os.environ, **changes}
    if "XLA_FLAGS" in changes and os.environ.get("JAX_COMPILATION_CACHE_DIR") == str(
        cache_folder(os.environ["XLA_FLAGS"])
    ):
        other["JAX_COMPILATION_CACHE_DIR"] = str(cache_folder(changes["XLA_FLAGS"]))
    return other
