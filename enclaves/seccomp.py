"""The system calls that an enclave may make once it is ready: an allow-list as a seccomp filter (seccomp(2), filter mode).

The enclave installs it on all its threads after it has loaded its libraries and before it reads its first byte of input. From then on no
descriptor can be opened for writing, nothing can be executed or mapped executable, and there are no sockets, no processes, no signals to
others, no namespaces and no mounts. A call that is not listed fails with EPERM: what a library tries in vain does not end the run.

The filter is classic BPF over `struct seccomp_data` (linux/seccomp.h): nr at 0, arch at 4, arguments of 64 bits from 16. Numbers are those
of the kernel's own tables: arch/x86/entry/syscalls/syscall_64.tbl, and include/uapi/asm-generic/unistd.h for aarch64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import NamedTuple, TypeAlias

LD_ABS, JEQ, JGE, JSET, AND, RET = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
NR, ARCH, ARGUMENTS = 0, 4, 16
X32_BIT = 0x40000000

CLONE_THREAD = 0x00010000
NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and CLONE_NEWTIME."""

PROT_EXEC = 4
OPENING_TO_WRITE = 0o3 | 0o100 | 0o1000 | 0o2000 | 0o20000000
"""O_ACCMODE, O_CREAT, O_TRUNC, O_APPEND and __O_TMPFILE: none of them may be set."""

PR_SET_NAME, PR_GET_SECCOMP, PR_SET_VMA, PR_SET_NO_NEW_PRIVS = 15, 21, 0x53564D41, 38
F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC = 0, 1, 2, 3, 1030
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1

Instruction: TypeAlias = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant (struct sock_filter)."""


class Arch(NamedTuple):
    """One architecture: its audit number, the number of seccomp(2), and the numbers of the calls that are allowed or looked into.

    Attributes:
        memory_files: calls that are allowed besides to a process that may write files which are only in memory.
    """

    audit: int
    seccomp: int
    numbers: dict[str, int]
    memory_files: dict[str, int]


# fmt: off
X86_64 = Arch(audit=0xC000003E, seccomp=317, memory_files={"memfd_create": 319, "ftruncate": 77, "pwrite64": 18, "preadv2": 327}, numbers={
    "read": 0, "readv": 19, "pread64": 17, "preadv": 295, "write": 1, "writev": 20, "close": 3, "fstat": 5, "newfstatat": 262,
    "statx": 332, "stat": 4, "lstat": 6, "lseek": 8, "fcntl": 72, "dup": 32, "openat": 257, "access": 21, "faccessat": 269,
    "faccessat2": 439, "readlink": 89, "readlinkat": 267, "getdents64": 217, "getcwd": 79, "fstatfs": 138, "statfs": 137,
    "fadvise64": 221, "recvmsg": 47, "recvfrom": 45, "poll": 7, "ppoll": 271, "pipe2": 293, "eventfd2": 290, "mmap": 9, "mprotect": 10,
    "munmap": 11, "mremap": 25, "madvise": 28, "brk": 12, "membarrier": 324, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "rt_sigreturn": 15, "sigaltstack": 131, "restart_syscall": 219, "futex": 202, "sched_yield": 24, "sched_getaffinity": 204,
    "sched_getparam": 143, "sched_getscheduler": 145, "set_robust_list": 273, "get_robust_list": 274, "set_tid_address": 218,
    "rseq": 334, "clone": 56, "clone3": 435, "exit": 60, "exit_group": 231, "gettid": 186, "getpid": 39, "getppid": 110, "getcpu": 309,
    "getuid": 102, "geteuid": 107, "getgid": 104, "getegid": 108, "getresuid": 118, "getresgid": 120, "uname": 63, "sysinfo": 99,
    "getrusage": 98, "prlimit64": 302, "getrlimit": 97, "times": 100, "prctl": 157, "getrandom": 318, "clock_gettime": 228,
    "clock_getres": 229, "clock_nanosleep": 230, "nanosleep": 35, "gettimeofday": 96, "time": 201,
})
AARCH64 = Arch(audit=0xC00000B7, seccomp=277, memory_files={"memfd_create": 279, "ftruncate": 46, "pwrite64": 68, "preadv2": 286}, numbers={
    "read": 63, "readv": 65, "pread64": 67, "preadv": 69, "write": 64, "writev": 66, "close": 57, "fstat": 80, "newfstatat": 79,
    "statx": 291, "lseek": 62, "fcntl": 25, "dup": 23, "openat": 56, "faccessat": 48, "faccessat2": 439, "readlinkat": 78,
    "getdents64": 61, "getcwd": 17, "fstatfs": 44, "statfs": 43, "fadvise64": 223, "recvmsg": 212, "recvfrom": 207, "ppoll": 73,
    "pipe2": 59, "eventfd2": 19, "mmap": 222, "mprotect": 226, "munmap": 215, "mremap": 216, "madvise": 233, "brk": 214,
    "membarrier": 283, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "sigaltstack": 132, "restart_syscall": 128,
    "futex": 98, "sched_yield": 124, "sched_getaffinity": 123, "sched_getparam": 121, "sched_getscheduler": 120, "set_robust_list": 99,
    "get_robust_list": 100, "set_tid_address": 96, "rseq": 293, "clone": 220, "clone3": 435, "exit": 93, "exit_group": 94,
    "gettid": 178, "getpid": 172, "getppid": 173, "getcpu": 168, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177,
    "getresuid": 148, "getresgid": 150, "uname": 160, "sysinfo": 179, "getrusage": 165, "prlimit64": 261, "getrlimit": 163,
    "times": 153, "prctl": 167, "getrandom": 278, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "nanosleep": 101,
    "gettimeofday": 169,
})
# fmt: on

ARCHES = {"x86_64": X86_64, "aarch64": AARCH64}


class Condition(NamedTuple):
    """What the low half of an argument must have: none of the bits `without`, all of `with_`, one of the values `one_of`.

    Flags and commands have 32 bits; the kernel ignores the high half of such arguments, except where `whole`, which then is 0.
    """

    argument: int
    without: int = 0
    with_: int = 0
    one_of: tuple[int, ...] = ()
    whole: bool = False


CONDITIONS: dict[str, tuple[Condition, ...]] = {
    "openat": (Condition(argument=2, without=OPENING_TO_WRITE),),
    "mmap": (Condition(argument=2, without=PROT_EXEC),),
    "mprotect": (Condition(argument=2, without=PROT_EXEC),),
    "clone": (Condition(argument=0, without=NEW_NAMESPACES, with_=CLONE_THREAD),),
    "prctl": (Condition(argument=0, one_of=(PR_SET_NAME, PR_GET_SECCOMP, PR_SET_VMA)),),
    "fcntl": (Condition(argument=1, one_of=(F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC)),),
    # Only of itself, and only to read: a new limit would be written through a pointer that is not NULL.
    "prlimit64": (Condition(argument=0, one_of=(0,)), Condition(argument=2, one_of=(0,), whole=True)),
}
"""What arguments a listed call may have; all conditions hold."""

DENIED_AS_MISSING = ("clone3",)
"""Its flags lie in memory, where a filter cannot look. Told that it does not exist, the C library uses clone."""


MEMFD_PLAIN = (0, 1, 2, 3)
"""Flags of memfd_create: MFD_CLOEXEC and MFD_ALLOW_SEALING; no huge pages, nothing that says whether it may be executed."""


def program(arch: Arch, *, memory_files: bool = False) -> list[Instruction]:
    """Return the filter for an architecture: another architecture or the x32 table ends the process; whatever is not listed is EPERM.

    Args:
        memory_files: allow files in memory to be made and anything to be opened for writing: which file it is, a filter cannot see. What
            is not in memory, the mounts keep from being written.
    """
    numbers = {**arch.numbers, **(arch.memory_files if memory_files else {})}
    conditions = {**CONDITIONS, "openat": (), "memfd_create": (Condition(argument=1, one_of=MEMFD_PLAIN),)} if memory_files else CONDITIONS
    code: list[Instruction] = [
        (LD_ABS, 0, 0, ARCH),
        (JEQ, 1, 0, arch.audit),
        (RET, 0, 0, RET_KILL_PROCESS),
        (LD_ABS, 0, 0, NR),
    ]
    if arch is X86_64:
        code += [(JGE, 0, 1, X32_BIT), (RET, 0, 0, RET_KILL_PROCESS)]
    for name, number in sorted(numbers.items(), key=lambda item: item[1]):
        if name in DENIED_AS_MISSING:
            answer: list[Instruction] = [(RET, 0, 0, RET_ERRNO | errno.ENOSYS)]
        else:
            answer = [step for condition in conditions.get(name, ()) for step in _require(condition)] + [(RET, 0, 0, RET_ALLOW)]
        code += [(JEQ, 0, len(answer), number), *answer]
    return [*code, (RET, 0, 0, RET_ERRNO | errno.EPERM)]


def _require(condition: Condition) -> list[Instruction]:
    """Go on behind these instructions if the condition holds, else return EPERM. The call's number is not needed any more."""
    at, refuse = ARGUMENTS + 8 * condition.argument, (RET, 0, 0, RET_ERRNO | errno.EPERM)
    code: list[Instruction] = []
    if condition.whole:
        code += [(LD_ABS, 0, 0, at + 4), (JEQ, 1, 0, 0), refuse]
    code += [(LD_ABS, 0, 0, at)]
    if condition.without:
        code += [(JSET, 0, 1, condition.without), refuse]
    if condition.with_:
        code += [(AND, 0, 0, condition.with_), (JEQ, 1, 0, condition.with_), refuse]
    if condition.one_of:
        count = len(condition.one_of)
        code += [(JEQ, count - index, 0, value) for index, value in enumerate(condition.one_of)] + [refuse]
    return code


def assemble(code: list[Instruction]) -> bytes:
    """Return the filter as an array of `struct sock_filter`, in the machine's byte order."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def confine_system_calls(*, memory_files: bool = False) -> bool:
    """Install the filter on all threads of this process, for good. False where the kernel or the architecture has no such filter."""
    arch = ARCHES.get(os.uname().machine)
    if arch is None:
        return False
    code = program(arch, memory_files=memory_files)
    held = ctypes.create_string_buffer(assemble(code))
    # struct sock_fprog: a 16-bit length, padding, a pointer.
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(held)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    arguments = (ctypes.c_long(arch.seccomp), ctypes.c_ulong(SECCOMP_SET_MODE_FILTER), ctypes.c_ulong(SECCOMP_FILTER_FLAG_TSYNC))
    return bool(libc.syscall(*arguments, ctypes.byref(fprog)) == 0 and libc.prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2)
