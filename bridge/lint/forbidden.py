"""Calls and names that orchestrators must not use, by the name they are imported as."""

from __future__ import annotations

ACTIVITY = "do it in an activity and yield its result"
ENVIRONMENT = ("environment", "read it in an activity, or put it into the input")
ZONE = ("environment", "name the zone, as in astimezone(timezone.utc): workers may have different local zones")
CLOCK = "use ctx.current_utc_datetime"

_EXACT: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
        ("clock", CLOCK),
    ),
    **{
        f"time.{name}": ("clock", CLOCK)
        for name in (
            [
                "time",
                "time_ns",
                "monotonic",
                "monotonic_ns",
                "perf_counter",
                "perf_counter_ns",
                "process_time",
                "process_time_ns",
                "thread_time",
                "clock_gettime",
                "clock_gettime_ns",
                "localtime",
            ]
        )
    },
    **{f"uuid.uuid{version}": ("uuid", "use ctx.new_uuid()") for version in (1, 4, 6, 7)},
    "os.urandom": ("random", ACTIVITY),
    "hash": ("random", "hash() of text differs from process to process; use hashlib"),
    "id": ("random", "id() differs from run to run; use a key of the data"),
    "time.sleep": ("sleep", "yield ctx.create_timer(timedelta(...))"),
    "asyncio.sleep": ("sleep", "yield ctx.create_timer(timedelta(...))"),
    **dict.fromkeys(("time.altzone", "time.daylight", "time.mktime", "time.timezone", "time.tzname"), ZONE),
    "datetime.date.fromtimestamp": ZONE,
    "os.getenv": ENVIRONMENT,
    "os.environ": ENVIRONMENT,
    "os.environb": ENVIRONMENT,
    **dict.fromkeys(
        [
            "getpass.getuser",
            "locale.getlocale",
            "os.cpu_count",
            "os.getcwd",
            "os.getlogin",
            "os.getpid",
            "os.getppid",
            "os.path.abspath",
            "os.path.expanduser",
            "os.path.expandvars",
            "os.uname",
            "socket.getfqdn",
            "socket.gethostname",
        ],
        ENVIRONMENT,
    ),
    "open": ("files", ACTIVITY),
    "io.open": ("files", ACTIVITY),
    "input": ("files", "wait for an external event"),
    "os.system": ("threads", ACTIVITY),
    "os.fork": ("threads", ACTIVITY),
    **{
        f"os.{name}": ("files", ACTIVITY)
        for name in [
            "chmod",
            "listdir",
            "makedirs",
            "mkdir",
            "open",
            "read",
            "remove",
            "rename",
            "replace",
            "rmdir",
            "scandir",
            "stat",
            "unlink",
            "walk",
            "write",
        ]
    },
    **{
        f"os.path.{name}": ("files", ACTIVITY)
        for name in ["exists", "getmtime", "getsize", "isdir", "isfile", "islink"]
    },
}

_PREFIXES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("random", "secrets", "numpy.random"), ("random", ACTIVITY)),
    **dict.fromkeys(
        [
            "aiohttp",
            "ftplib",
            "grpc",
            "http.client",
            "httpx",
            "requests",
            "smtplib",
            "socket",
            "urllib.request",
            "urllib3",
            "websockets",
        ],
        ("http", ACTIVITY),
    ),
    **dict.fromkeys(
        [
            "aiosqlite",
            "asyncpg",
            "boto3",
            "google.cloud",
            "motor",
            "mysql",
            "peewee",
            "psycopg",
            "psycopg2",
            "pymongo",
            "pymysql",
            "pyodbc",
            "redis",
            "sqlalchemy",
            "sqlite3",
        ],
        ("database", ACTIVITY),
    ),
    **dict.fromkeys(("glob", "shutil", "tempfile"), ("files", ACTIVITY)),
    "platform": ENVIRONMENT,
    **dict.fromkeys(
        ["_thread", "asyncio", "concurrent.futures", "multiprocessing", "subprocess", "threading", "trio"],
        ("threads", ACTIVITY),
    ),
}

_ATTRIBUTE = {"os.environ", "os.environb", "time.altzone", "time.daylight", "time.timezone", "time.tzname"}
"""Names that are forbidden even when they are only read."""

PATH_METHODS = frozenset(
    [
        "open",
        "read_text",
        "read_bytes",
        "write_text",
        "write_bytes",
        "iterdir",
        "unlink",
        "touch",
        "mkdir",
        "rename",
        "replace",
        "stat",
        "rmdir",
        "exists",
        "is_file",
        "is_dir",
        "glob",
        "rglob",
    ]
)
"""Methods of pathlib.Path that access the disk."""

HARMLESS = frozenset({"asyncio.CancelledError", "asyncio.TimeoutError", "socket.timeout", "random.Random"})
"""Permitted names below a forbidden prefix. A seeded Random is repeatable; one without a seed is reported."""


_ARGUMENTS_WITH_TIME = {"time.ctime": 1, "time.gmtime": 1, "time.strftime": 2}
"""Number of arguments from which these functions format a given time. With fewer arguments they read the clock."""

_CHANCE = ("random", "secrets", "numpy.random")
"""Modules whose lower-case functions are all forbidden."""

KEPT = frozenset({"clock", "environment", "random", "uuid"})
"""Rules that also apply to values created while a module is loaded."""


def forbidden_call(name: str, arguments: int = 0) -> tuple[str, str] | None:
    """Rule and remedy of a forbidden call, by dotted name; None for a permitted call."""
    if name in HARMLESS:
        return None
    if name in _ARGUMENTS_WITH_TIME:
        return None if arguments >= _ARGUMENTS_WITH_TIME[name] else ("clock", CLOCK)
    found = _EXACT.get(name)
    if found is not None:
        return found
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        found = _PREFIXES.get(".".join(parts[:length]))
        # A bare name is a builtin or one of the module's own names, never a forbidden module
        if found is not None and len(parts) > 1:
            return found
    return None


def forbidden_function(name: str) -> tuple[str, str] | None:
    """Rule and remedy of a forbidden function that is passed on without a call; None if permitted.

    Names that are forbidden to read are reported by forbidden_name.
    """
    if name in _ATTRIBUTE or name in HARMLESS:
        return None
    base, _, last = name.rpartition(".")
    return _EXACT.get(name) or (_PREFIXES[base] if base in _CHANCE and last.islower() else None)


def forbidden_name(name: str) -> tuple[str, str] | None:
    """Rule and remedy of a name that is only read; None if permitted."""
    return _EXACT[name] if name in _ATTRIBUTE else None
