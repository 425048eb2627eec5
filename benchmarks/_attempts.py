"""What hostile code inside a run would try against the machine and against other runs; each attempt says whether it succeeded.

`hostile_code` is self-contained text: it runs inside an enclave, where nothing but the measured code can be read. Targets are a victim
process, a port and files of whoever plays the attack. The attempts follow the usual ways out of a process sandbox.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET = "the-secret-of-another-run"

_ATTEMPTS = r'''
import ctypes, errno, json, os, platform, resource, signal, socket, sys, threading
LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
NUMBERS = {  # of x86_64 and aarch64
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
    "fsopen": (430, 430), "open_tree": (428, 428), "bpf": (321, 280), "io_uring_setup": (425, 425), "keyctl": (250, 219),
    "add_key": (248, 217), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "memfd_create": (319, 279),
    "pidfd_open": (434, 434), "chroot": (161, 51), "name_to_handle_at": (303, 264), "clone": (56, 220), "init_module": (175, 105),
}

def call(name, *arguments):
    number = NUMBERS[name][0 if X86 else 1]
    ctypes.set_errno(0)
    answer = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return answer >= 0

def readable(path):
    with open(path, "rb") as file:
        return bool(file.read(1))

def tcp():
    with socket.create_connection(("127.0.0.1", AIM["port"]), 2):
        return True

def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        return sender.sendto(b"x", ("192.0.2.1", 9)) == 1

def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return True

def abstract_socket():
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect("\0" + AIM["abstract"])
        return True

def talk_back():
    """The channel of the input carries nothing out."""
    with socket.socket(fileno=os.dup(0)) as channel:
        return channel.send(b"x") == 1

def environments():
    found = False
    for name in os.listdir("/proc"):
        if name.isdigit() and name != str(os.getpid()):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    found |= AIM["secret"][::-1].encode() in file.read()
            except OSError:
                pass
    return found

def host_processes():
    return any(AIM["secret"][::-1].encode() in open(f"/proc/{name}/cmdline", "rb").read() for name in os.listdir("/proc") if name.isdigit())

def write_to(path):
    def attempt():
        with open(path, "wb", buffering=0) as file:
            return file.write(b"x") == 1
    return attempt

def fill(path):
    def attempt():
        with open(path, "wb", buffering=0) as file:
            return sum(file.write(bytes(1 << 20)) for _ in range(32)) >= 8 << 20
    return attempt

def process_memory():
    local = ctypes.create_string_buffer(8)
    class Part(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    here, there = Part(ctypes.addressof(local), 8), Part(AIM["address"], 8)
    return call("process_vm_readv", AIM["pid"], ctypes.byref(here), 1, ctypes.byref(there), 1, 0)

def signal_victim():
    os.kill(AIM["pid"], 0)
    return True

def signal_all():
    """Everything that this process may signal but itself and the first of its namespace."""
    os.kill(-1, 0)
    return True

def forks():
    made = 0
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        made += 1
    return made > 0

def many_threads():
    """More than a run may have; whether 400 of them stand at once."""
    stop = threading.Event()
    threading.stack_size(64 << 10)
    started = []
    try:
        for _ in range(400):
            thread = threading.Thread(target=stop.wait, daemon=True)
            thread.start()
            started.append(thread)
    finally:
        stop.set()
    return len(started) == 400

def execute():
    pid = os.posix_spawn("/bin/true", ["/bin/true"], {})
    return os.waitpid(pid, 0)[1] == 0

def executable_memory():
    LIBC.mmap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    return LIBC.mmap(None, 4096, 7, 0x22, -1, 0) != ctypes.c_void_p(-1).value

def become_root():
    return LIBC.setuid(0) == 0 and os.geteuid() == 0 and os.getuid() == 0 and AIM["jailed"]

def raise_limits():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    return True

def namespace_by_clone():
    """A child in a user namespace of its own (CLONE_NEWUSER and SIGCHLD)."""
    ctypes.set_errno(0)
    pid = LIBC.syscall(ctypes.c_long(NUMBERS["clone"][0 if X86 else 1]), ctypes.c_long(0x10000000 | 17), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
    return pid > 0

def be_dumpable():
    return LIBC.prctl(4, 1, 0, 0, 0) == 0

def terminal_input():
    import fcntl, termios
    fcntl.ioctl(0, termios.TIOCSTI, b"x")
    return True

BLANK = ctypes.create_string_buffer(256)
ATTEMPTS = {
    "tcp": tcp, "udp": udp, "raw-socket": raw_socket, "abstract-socket": abstract_socket, "talk-back": talk_back,
    "shadow": lambda: readable("/etc/shadow"), "file-of-another-run": lambda: readable(AIM["file"]),
    "folder-of-the-host": lambda: AIM["name"] in os.listdir(AIM["folder"]), "environments": environments, "host-processes": host_processes,
    "write-usr": write_to("/usr/planted"), "write-code": write_to(AIM["code"] + "/enclaves/planted.py"), "write-tmp": fill("/tmp/full"),
    "write-shm": fill("/dev/shm/full"), "write-cgroup": write_to("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    "memory-file": lambda: call("memfd_create", BLANK, 0),
    "ptrace": lambda: call("ptrace", 16, AIM["pid"], 0, 0), "process-memory": process_memory,
    "signal-victim": signal_victim, "signal-all": signal_all, "pidfd": lambda: call("pidfd_open", AIM["pid"], 0),
    "user-namespace": lambda: call("unshare", 0x10000000), "namespace-by-clone": namespace_by_clone,
    "join-namespace": lambda: call("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0),
    "mount": lambda: call("mount", ctypes.c_char_p(b"none"), ctypes.c_char_p(b"/tmp"), ctypes.c_char_p(b"tmpfs"), 0, 0),
    "mount-api": lambda: call("fsopen", ctypes.c_char_p(b"tmpfs"), 0),
    "open-tree": lambda: call("open_tree", -100, ctypes.c_char_p(b"/"), 1),
    "chroot": lambda: call("chroot", ctypes.c_char_p(b"/tmp")),
    "bpf": lambda: call("bpf", 0, ctypes.byref(BLANK), 72), "io_uring": lambda: call("io_uring_setup", 8, ctypes.byref(BLANK)),
    "keyctl": lambda: call("keyctl", 0, -3, 1),
    "add-key": lambda: call("add_key", ctypes.c_char_p(b"user"), ctypes.c_char_p(b"k"), ctypes.c_char_p(b"v"), 1, -3),
    "perf": lambda: call("perf_event_open", ctypes.byref(BLANK), 0, -1, -1, 0), "userfaultfd": lambda: call("userfaultfd", 1),
    "module": lambda: call("init_module", ctypes.byref(BLANK), 0, ctypes.byref(BLANK)),
    "forks": forks, "many-threads": many_threads, "execute": execute, "executable-memory": executable_memory,
    "become-root": become_root, "raise-limits": raise_limits, "be-dumpable": be_dumpable, "terminal-input": terminal_input,
}

def attempt_all():
    outcome = {}
    for name in AIM["only"] or ATTEMPTS:
        try:
            outcome[name] = bool(ATTEMPTS[name]())
        except Exception:
            outcome[name] = False
    return outcome
'''

_SAY = r"""
data = json.dumps(attempt_all()).encode()
OUT.write(len(data).to_bytes(4, "big") + data)
OUT.flush()
os._exit(0)
"""

_CONFINED = r"""
import sys
sys.path.insert(0, {root!r})
import encodings.idna, fcntl, termios  # whatever an attack needs is at hand
import enclaves.run, enclaves.main as M
from enclaves.confinement import limit_self
limit_self({memory})
IN, OUT = M.take_standard_input(), M.take_standard_output()
M.confine({memory})
"""

_CONFINED_TOTAL = r"""
import sys
sys.path.insert(0, {root!r})
import encodings.idna, fcntl, termios  # whatever an attack needs is at hand
import enclaves.joint_main as J, enclaves.main as M
J.limit_self()
IN, OUT = M.take_standard_input(), M.take_standard_output()
J.preload("contribute")
J.confine()
"""

_BARE = "import sys\nOUT = sys.stdout.buffer\n"

HARMLESS = ("tcp", "udp", "file-of-another-run", "folder-of-the-host", "environments", "host-processes", "signal-victim", "forks",
            "user-namespace", "execute", "executable-memory", "memory-file", "abstract-socket")  # fmt: skip
"""What an ordinary process may do and what leaves no trace: the control that shows that the attempts are real."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The victim and what else is aimed at."""

    aim: Mapping[str, Any]

    def code(self, root: Path, *, memory_mib: int | None, only: tuple[str, ...] = (), total: bool = False) -> str:
        """Python text that plays the attempts and answers one frame of JSON.

        Confined like an enclave, or like what computes a joint total, or as it is for `memory_mib` None.
        """
        aim = dict(self.aim) | {"code": str(root), "only": list(only), "jailed": memory_mib is not None}
        confined = _CONFINED_TOTAL if total else _CONFINED
        opening = _BARE if memory_mib is None else confined.format(root=str(root), memory=memory_mib)
        return f"import json\nAIM = json.loads({json.dumps(aim)!r})\n{opening}\n{_ATTEMPTS}\n{_SAY}"


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A victim process with a secret in its environment, its arguments and a file, and two listening sockets."""
    file = folder / "keys-of-another-run"
    file.write_text(SECRET)
    file.chmod(0o644)
    environment = {**os.environ, "KEY": SECRET}
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", SECRET], env=environment)
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
            name = f"attempts-{victim.pid}"
            abstract.bind(f"\0{name}")
            abstract.listen()
            yield Stage(
                aim={
                    "port": server.getsockname()[1],
                    "abstract": name,
                    "pid": victim.pid,
                    "address": 0x400000,
                    "secret": SECRET[::-1],  # the attack's own text is an argument, too
                    "file": str(file),
                    "folder": str(folder),
                    "name": file.name,
                }
            )
    finally:
        victim.kill()
        victim.wait()
