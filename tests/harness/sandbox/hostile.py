"""Attacks that misbehave, each with the words in which the sandbox must stop it."""

from __future__ import annotations

from typing import NamedTuple


class Hostile(NamedTuple):
    """Source of an attack.py, and a pattern of the reason that its author is told."""

    source: str
    reason: str


def _body(text: str) -> str:
    """Return a whole attack whose body is `text`."""
    lines = "\n".join("    " + line for line in text.strip().splitlines())
    return f"import os\ndef attack(model, x, y, *, eps, steps, rng, pool):\n{lines}\n    return x\n"


_DENIED = "PermissionError|Operation not permitted"
_LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"


def _call(number: int, *arguments: int) -> str:
    """Return code that makes a raw call of the kernel (x86_64) and reports its errno."""
    listed = ", ".join(str(a) for a in (number, *arguments))
    return (
        _LIBC
        + f"r = libc.syscall({listed})\nraise OSError(ctypes.get_errno() if r < 0 else 0, 'allowed' if r >= 0 else 'denied')"
    )


def _sends(head: str) -> str:
    """Return code that answers in the worker's place, with a head of its own."""
    return _body(f"p = {head.encode()!r}\nos.write(3, len(p).to_bytes(8, 'big') + bytes(8) + p)\nos._exit(0)")


HOSTILE = {
    # the network
    "opens a socket": Hostile(_body("import socket\nsocket.create_connection(('192.0.2.1', 80), 1)"), _DENIED),
    "looks up a host": Hostile(
        _body("import urllib.request\nurllib.request.urlopen('http://example.org', timeout=1)"), "URLError"
    ),
    "opens a local socket": Hostile(_body("import socket\nsocket.socket(socket.AF_UNIX)"), _DENIED),
    "makes a socket pair": Hostile(_body("import socket\nsocket.socketpair()"), _DENIED),
    "uses io_uring": Hostile(_body(_call(425, 8, 0)), r"Errno 1\] denied"),
    # other files
    "reads the targets": Hostile(_body("import zoo\nzoo.load('digits-vgg')"), "UserError|FileNotFoundError"),
    "searches the disk for weights": Hostile(
        _body(
            "found = [os.path.join(d, f) for d, _, fs in os.walk('/') for f in fs if f.endswith('.safetensors')]\n"
            "raise ValueError(f'found {found}')"
        ),
        r"found \[\]",
    ),
    "reads a board": Hostile(
        _body(
            "names = {'clean.json', 'suite.yaml'}\n"
            "found = [d for d, _, fs in os.walk('/') if names & set(fs)]\nraise ValueError(f'found {found}')"
        ),
        r"found \[\]",
    ),
    "lists the home folder": Hostile(
        _body("raise ValueError(os.listdir(os.path.expanduser('~root')))"), r"FileNotFound|\['\.pyenv'\]"
    ),
    "reads the password file": Hostile(_body("open('/etc/passwd').read()"), "FileNotFoundError"),
    "reads a key of the user": Hostile(_body("open('/root/.ssh/id_rsa').read()"), "FileNotFoundError"),
    "reads the environment": Hostile(
        _body("raise ValueError('CANARY' in str(dict(os.environ)) or sorted(os.environ)[:2])"), "CUBLAS"
    ),
    "reads another process": Hostile(_body("open('/proc/1/mem', 'rb').read(1)"), "FileNotFoundError"),
    "reads a disk": Hostile(_body("open('/dev/vda', 'rb').read(1)"), "FileNotFoundError"),
    "writes outside": Hostile(
        _body("open('/package/zoo/build.py', 'a').write('x')"), "Read-only file system|PermissionError"
    ),
    "writes into Python": Hostile(
        _body("import torch\nopen(torch.__file__, 'a').write('x')"), "Read-only file system|PermissionError"
    ),
    "writes into the root": Hostile(_body("os.mkdir('/x')"), "Read-only file system|PermissionError"),
    # more than its share
    "forks": Hostile(_body("os.fork()"), _DENIED),
    "is a fork bomb": Hostile(
        _body("import ctypes\nwhile ctypes.CDLL(None).fork() >= 0: pass\nraise ValueError('no fork')"), "no fork"
    ),
    "starts a process": Hostile(_body("import subprocess\nsubprocess.run(['/bin/sh'])"), _DENIED),
    "becomes another program": Hostile(
        _body("import sys\nos.execv(sys.executable, ['python'])"), f"{_DENIED}|FileNotFound"
    ),
    "starts threads": Hostile(_body("import threading\nthreading.Thread(target=print).start()"), "new thread"),
    "hogs memory": Hostile(_body("kept = []\nwhile True: kept.append(bytearray(10**7))"), "more memory than 256 MB"),
    "hogs memory through torch": Hostile(_body("import torch\ntorch.ones(10**9)"), "more memory than 256 MB"),
    "hogs shared memory": Hostile(
        _body("import mmap\nkept = []\nwhile True:\n    kept.append(mmap.mmap(-1, 10**8))"),
        "more memory|Cannot allocate",
    ),
    "hides memory in a file": Hostile(_body("os.memfd_create('x')"), _DENIED),
    "raises its limits": Hostile(
        _body("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))"), f"{_DENIED}|not allowed to raise"
    ),
    "loops forever": Hostile(_body("while True: pass"), "longer than 1 seconds"),
    "sleeps forever": Hostile(_body("import time\ntime.sleep(10**6)"), "longer than 1 seconds"),
    "ignores signals": Hostile(
        _body(
            "import signal\nfor s in (signal.SIGXCPU, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\nwhile True: pass"
        ),
        "longer than 1 seconds",
    ),
    "floods the terminal": Hostile(_body("while True: print('x' * 9999)"), "more text than"),
    "floods the result": Hostile(_body("while True: os.write(3, b'x' * 9999)"), "more data than"),
    "fills the scratch folder": Hostile(
        _body("for i in range(99):\n    with open(f'f{i}', 'wb') as f: f.write(b'x' * 2**20)"),
        "No space left|File too large",
    ),
    "writes a huge file": Hostile(
        _body("with open('f', 'wb') as f: f.truncate(2**33)"), "File too large|ended by SIGXFSZ"
    ),
    # the machinery
    "kills the server": Hostile(_body("os.kill(os.getppid() or 1, 9)"), _DENIED),
    "traces the server": Hostile(_body(_call(101, 16, 1, 0, 0)), r"Errno 1\] denied"),
    "writes into the server's memory": Hostile(_body(_call(311, 1, 0, 0, 0, 0, 0)), r"Errno 1\] denied"),
    "mounts": Hostile(_body(_call(165, 0, 0, 0, 0, 0)), r"Errno 1\] denied"),
    "makes a namespace": Hostile(_body(_call(272, 0x10000000)), r"Errno 1\] denied"),
    "loads a filter of its own": Hostile(_body(_call(317, 1, 0, 0)), r"Errno 1\] denied"),
    "calls by another architecture's numbers": Hostile(_body(_call(0x40000000 + 39)), "SIGSYS"),
    "forges a message": Hostile(
        _body("os.write(3, (2).to_bytes(8, 'big') + (0).to_bytes(8, 'big') + b'{}')\nos._exit(0)"), "returned no images"
    ),
    "sends two messages": Hostile(
        _body("os.write(3, (2).to_bytes(8, 'big') + (0).to_bytes(8, 'big') + b'{}')"), "bytes where 18 were announced"
    ),
    "sends garbage": Hostile(_body("os.write(3, b'\\xff' * 64)\nos._exit(0)"), "a message of"),
    "sends a pickle": Hostile(
        _body(
            "import pickle\np = pickle.dumps({})\nos.write(3, len(p).to_bytes(8, 'big') + bytes(8) + p)\nos._exit(0)"
        ),
        "not JSON",
    ),
    "patches the harness": Hostile(
        _body(
            "import harness.runs.craft, harness.sandbox.worker as w, harness.sandbox.frames as f\n"
            "harness.runs.craft.max_level = lambda *a: 0\nw.audited = None\nf.encode = lambda *a: b'{}'"
        ),
        "returned",
    ),
    # half-way
    "crashes": Hostile(_body("import ctypes\nctypes.string_at(0)"), "SIGSEGV"),
    "leaves": Hostile(_body("os._exit(0)"), "returned no images"),
    "exits": Hostile(_body("raise SystemExit(0)"), "SystemExit"),
    "recurses": Hostile(_body("def f(): f()\nf()"), "RecursionError"),
    "has no attack": Hostile("x = 1\n", "no function `attack`"),
    "does not parse": Hostile("def attack(:\n", "SyntaxError.*attack.py, line 1"),
    "steers the terminal": Hostile(
        _body("raise ValueError('\\x1b[2J' + chr(0x202e) + 'evil')"), r"ValueError: +\[2J +evil"
    ),
    "returns no tensor": Hostile(_body("return [1, 2]"), "returned list"),
    # the substitute
    "alters the weights": Hostile(
        _body("import torch\nwith torch.no_grad(): next(model.module.parameters()).mul_(2)"),
        "altered the substitute's weights",
    ),
    "leaves a hook": Hostile(_body("model.module.register_forward_hook(lambda *a: None)"), "left hooks"),
    "switches to training": Hostile(_body("model.module.train()"), "left the substitute in training mode"),
    "digs deep folders": Hostile(
        _body("for _ in range(3000): os.mkdir('d'); os.chdir('d')\nraise ValueError('dug')"), "dug"
    ),
    "locks its folders": Hostile(
        _body("os.makedirs('a/b')\nos.chmod('a/b', 0)\nos.chmod('a', 0)\nraise ValueError('locked')"), "locked"
    ),
    # walls that once had holes
    "fills /dev": Hostile(
        _body(
            "for i in range(600):\n    with open(f'/dev/f{i}', 'wb') as f: f.write(b'x' * 2**20)\nraise ValueError('written')"
        ),
        "Read-only file system|PermissionError",
    ),
    "fills /dev/shm": Hostile(
        _body("with open('/dev/shm/f', 'wb') as f: f.write(b'x' * 2**20)\nraise ValueError('written')"),
        "Read-only file system|PermissionError|FileNotFound",
    ),
    "makes a device": Hostile(_body("os.mknod('/dev/x')\nraise ValueError('made')"), "Read-only|PermissionError|not permitted"),
    "makes a pseudo terminal": Hostile(
        _body("os.openpty()\nraise ValueError('made')"), "FileNotFound|PermissionError|out of pty"
    ),
    "writes into hidden folders": Hostile(
        _body(
            "import sys\nwritten = []\n"
            "for top in sys.path:\n"
            "    for name in ('zoo', 'harness', 'site-packages', 'dist-packages'):\n"
            "        try:\n            open(f'{top}/{name}/f', 'wb').write(b'x')\n            written.append(top)\n"
            "        except OSError: pass\n"
            "raise ValueError(f'written {written}')"
        ),
        r"written \[\]",
    ),
    "writes wherever it can": Hostile(
        _body(
            "written = []\n"
            "for d, ds, fs in os.walk('/'):\n"
            "    if d.startswith('/scratch'): continue\n"
            "    if os.access(d, os.W_OK): written.append(d)\n"
            "raise ValueError(f'written {written}')"
        ),
        r"written \[\]",
    ),
    "looks into the packages of another Python": Hostile(
        _body(
            "import sys, sysconfig\nfound = []\n"
            "for top in {sysconfig.get_path('stdlib'), '/usr/lib/python3', '/usr/lib/python3.11'}:\n"
            "    for name in ('site-packages', 'dist-packages'):\n"
            "        place = f'{top}/{name}'\n"
            "        if place not in sys.path and os.path.isdir(place): found += os.listdir(place)\n"
            "raise ValueError(f'found {found}')"
        ),
        r"found \[\]",
    ),
    "owns a file by another process": Hostile(
        _body("import fcntl\nfcntl.fcntl(3, fcntl.F_SETOWN, os.getppid() or 1)\nraise ValueError('owned')"), _DENIED
    ),
    "owns a file by a group": Hostile(
        _body("import fcntl\nfcntl.fcntl(3, fcntl.F_SETOWN, -1)\nraise ValueError('owned')"), _DENIED
    ),
    "chooses the signal of a file": Hostile(
        _body("import fcntl\nfcntl.fcntl(3, fcntl.F_SETSIG, 9)\nraise ValueError('chosen')"), _DENIED
    ),
    "asks for signals": Hostile(
        _body("import fcntl\nfcntl.fcntl(3, fcntl.F_SETFL, os.O_ASYNC)\nraise ValueError('asked')"), _DENIED
    ),
    "asks for signals by ioctl": Hostile(
        _body("import fcntl, array\nfcntl.ioctl(3, 0x5452, array.array('i', [1]))\nraise ValueError('asked')"), _DENIED
    ),
    "takes a lease": Hostile(_body("import fcntl\nfcntl.fcntl(3, 1024, 0)\nraise ValueError('taken')"), _DENIED),
    "watches a folder": Hostile(
        _body("import fcntl\nd = os.open('/scratch', os.O_RDONLY)\nfcntl.fcntl(d, 1026, 2)\nraise ValueError('watched')"), _DENIED
    ),
    "grows its pipes": Hostile(_body("import fcntl\nfcntl.fcntl(3, 1031, 2**20)\nraise ValueError('grown')"), _DENIED),
    "learns the host's name": Hostile(_body("raise ValueError(os.uname().nodename)"), "ValueError: sandbox"),
    "learns the names in the home folder": Hostile(
        _body(
            "import gc, sys\n"
            "texts = [t for t in gc.get_objects() if isinstance(t, (list, dict, tuple))]\n"
            "found = 'forbidden' in str(sys.argv) or 'forbidden' in str(sys.orig_argv)\n"
            "raise ValueError(f'told {found}')"
        ),
        "told False",
    ),
    "finds the substitute's weights": Hostile(
        _body(
            "import gc, torch\n"
            "found = [p.numel() for p in gc.get_objects() if isinstance(p, torch.nn.Parameter) and p.numel()]\n"
            "raise ValueError(f'found {found}')"
        ),
        r"found \[\]",
    ),
    "asks for what is no request": Hostile(_body("os.write(4, b'\\xff' * 64)\nmodel(x)"), "does not answer any more"),
    "asks for a pass of images that are not there": Hostile(
        _body("model._exchange({'do': 'logits', 'shape': [2**40, 1, 16, 16], 'grad': False, 'tail': False}, b'')"),
        "do not fit",
    ),
    "asks for images of another shape": Hostile(_body("import torch\nmodel(torch.zeros(1, 7, 3, 3))"), "RuntimeError"),
    "asks for less than no images": Hostile(
        _body("model._exchange({'do': 'logits', 'shape': [-1, 1, 16, -16], 'grad': False, 'tail': False}, b'')"), "do not fit"
    ),
    "asks for a gradient that is not there": Hostile(
        _body("model._exchange({'do': 'backward', 'token': 77, 'places': [], 'shapes': []}, b'')"), "KeyError"
    ),
    "keeps graphs without end": Hostile(
        _body("z = x.repeat(256, 1, 1, 1).requires_grad_()\nkept = []\nwhile True: kept.append(model(z))"),
        "more memory|does not answer any more|longer than",
    ),
    "works inside without saying so": Hostile(
        _body("next(model.networks()[0].parameters()).mul_(2)\nlist(model.networks()[0].modules())[1]"), "IndexError"
    ),
    "locks the scratch folder": Hostile(_body("os.chmod('/scratch', 0)\nraise ValueError('locked')"), "locked|PermissionError"),
    "locks the scratch folder and leaves": Hostile(
        _body("os.mkdir('a')\ntry: os.chmod('/scratch', 0)\nexcept OSError: pass\nos._exit(0)"),
        "returned no images|cannot be emptied",
    ),
    "removes its own code": Hostile(
        _body("import shutil\nshutil.rmtree('/scratch/submission')\nraise ValueError('removed')"), "removed"
    ),
    "names a message of no end": Hostile(_body("os.write(3, b'\\x7f' * 16)\nos._exit(0)"), "a message of"),
    "names a key twice": Hostile(
        _sends('{"forwards":1,"forwards":2,"backwards":1}'),
        "a key occurs twice",
    ),
    "counts its passes below zero": Hostile(
        _sends('{"forwards":-1,"backwards":1}'),
        "returned no images",
    ),
    "counts its passes by truth": Hostile(
        _sends('{"forwards":true,"backwards":1}'),
        "returned no images",
    ),
}
WALLS = (
    "opens a socket",
    "reads the targets",
    "writes outside",
    "lists the home folder",
    "reads the environment",
    "fills /dev",
    "fills /dev/shm",
    "makes a device",
    "makes a pseudo terminal",
    "writes into hidden folders",
    "writes wherever it can",
    "looks into the packages of another Python",
    "owns a file by another process",
    "chooses the signal of a file",
    "asks for signals",
    "learns the host's name",
    "learns the names in the home folder",
    "locks the scratch folder and leaves",
)
"""What is tried against every backend, and as an ordinary user."""
