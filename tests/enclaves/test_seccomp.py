"""The filter of system calls, run by an interpreter of its own and held to its list; its numbers, held to libseccomp's."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclaves.seccomp import AARCH64, CONDITIONS, DENIED_AS_MISSING, X32_BIT, X86_64, Arch, assemble, program

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
ARCHES = [X86_64, AARCH64]
WORDS = st.integers(0, 2**64 - 1)


def run(code: bytes, number: int, audit: int, arguments: tuple[int, ...] = (0,) * 6) -> int:
    """What the kernel would answer: classic BPF (Documentation/networking/filter.rst) over struct seccomp_data."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments)
    steps = list(struct.iter_unpack("=HBBI", code))
    at, accumulator = 0, 0
    while True:
        operation, true, false, constant = steps[at]
        at += 1
        if operation == 0x20:
            accumulator = int.from_bytes(data[constant : constant + 4], "little")
        elif operation == 0x54:
            accumulator &= constant
        elif operation == 0x06:
            return constant
        else:
            holds = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}[operation]
            at += true if holds else false


@pytest.mark.parametrize("arch", ARCHES, ids=["x86_64", "aarch64"])
def test_every_call_is_answered_as_listed(arch: Arch) -> None:
    code, listed = assemble(program(arch)), {number: name for name, number in arch.numbers.items()}
    assert len(code) // 8 <= 4096, "the kernel takes no longer filter"
    for number in range(0, 600):
        answer = run(code, number, arch.audit)
        name = listed.get(number)
        if name is None:
            assert answer == EPERM, number
        elif name in DENIED_AS_MISSING:
            assert answer == ENOSYS
        elif name not in CONDITIONS:
            assert answer == ALLOW


@given(number=st.integers(0, 2**32 - 1), audit=st.integers(0, 2**32 - 1), arguments=st.tuples(*[WORDS] * 6))
def test_another_architecture_or_table_ends_the_process(number: int, audit: int, arguments: tuple[int, ...]) -> None:
    for arch in ARCHES:
        code = assemble(program(arch))
        if audit != arch.audit:
            assert run(code, number, audit, arguments) == KILL
        if arch is X86_64 and number >= X32_BIT:
            assert run(code, number, arch.audit, arguments) == KILL
        assert run(code, number, arch.audit, arguments) in (ALLOW, EPERM, ENOSYS, KILL)


@pytest.mark.parametrize("arch", ARCHES, ids=["x86_64", "aarch64"])
@given(arguments=st.tuples(*[WORDS] * 6))
def test_arguments_are_held_to_their_conditions(arch: Arch, arguments: tuple[int, ...]) -> None:
    """Stated here once more, in words of the kernel's interface."""
    code = assemble(program(arch))
    low = [argument & 0xFFFFFFFF for argument in arguments]
    expected = {
        "openat": low[2] & (0o3 | 0o100 | 0o1000 | 0o2000 | 0o20000000) == 0,
        "mmap": low[2] & 4 == 0,
        "mprotect": low[2] & 4 == 0,
        "clone": low[0] & 0x10000 != 0 and low[0] & 0x7E020080 == 0,
        "prctl": low[0] in (15, 21, 0x53564D41),
        "fcntl": low[1] in (0, 1, 2, 3, 1030),
        "prlimit64": low[0] == 0 and arguments[2] == 0,
    }
    assert set(expected) == set(CONDITIONS)
    for name, allowed in expected.items():
        assert run(code, arch.numbers[name], arch.audit, arguments) == (ALLOW if allowed else EPERM), name


@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("openat", (0, 0, 0o2000000, 0, 0, 0), True),
        ("openat", (0, 0, 0o2000001, 0, 0, 0), False),
        ("openat", (0, 0, 0o100, 0o600, 0, 0), False),
        ("mmap", (0, 4096, 3, 0x22, 0, 0), True),
        ("mmap", (0, 4096, 7, 0x22, 0, 0), False),
        ("clone", (0x3D0F00, 0, 0, 0, 0, 0), True),
        ("clone", (0x3D0F00 | 0x10000000, 0, 0, 0, 0, 0), False),
        ("clone", (17, 0, 0, 0, 0, 0), False),
        ("prlimit64", (0, 7, 0, 1, 0, 0), True),
        ("prlimit64", (0, 7, 1 << 32, 0, 0, 0), False),
        ("prlimit64", (1, 7, 0, 0, 0, 0), False),
        ("prctl", (4, 1, 0, 0, 0, 0), False),
    ],
)
def test_what_a_run_and_what_an_attack_would_pass(name: str, arguments: tuple[int, ...], allowed: bool) -> None:
    for arch in ARCHES:
        assert run(assemble(program(arch)), arch.numbers[name], arch.audit, arguments) == (ALLOW if allowed else EPERM)


@pytest.mark.parametrize("arch", ARCHES, ids=["x86_64", "aarch64"])
def test_the_numbers_are_those_of_libseccomp(arch: Arch) -> None:
    path = ctypes.util.find_library("seccomp")
    if path is None:
        pytest.skip("install libseccomp2 to compare the numbers of system calls")
    resolve = ctypes.CDLL(path).seccomp_syscall_resolve_name_arch
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    listed = {**arch.numbers, **arch.memory_files}
    assert {name: resolve(arch.audit, name.encode()) for name in listed} == listed


def test_nothing_that_leaves_is_listed() -> None:
    never = {
        "socket", "connect", "bind", "sendto", "sendmsg", "execve", "execveat", "fork", "vfork", "kill", "tkill", "tgkill", "ptrace",
        "open", "creat", "mount", "unshare", "setns", "bpf", "keyctl", "io_uring_setup", "memfd_create", "setrlimit", "setuid", "ioctl",
        "pwrite64", "unlink", "rename",
    }  # fmt: skip
    for arch in ARCHES:
        assert not never & set(arch.numbers)


@pytest.mark.parametrize("arch", ARCHES, ids=["x86_64", "aarch64"])
def test_with_files_in_memory_only_what_makes_and_writes_them_is_allowed_besides(arch: Arch) -> None:
    strict, wider = assemble(program(arch)), assemble(program(arch, memory_files=True))
    assert set(arch.memory_files) == {"memfd_create", "ftruncate", "pwrite64", "preadv2"}
    changed = {number for number in range(600) if run(strict, number, arch.audit) != run(wider, number, arch.audit)}
    assert changed == set(arch.memory_files.values())
    writing = (0, 0, 0o1102, 0o600, 0, 0)
    assert run(strict, arch.numbers["openat"], arch.audit, writing) == EPERM
    assert run(wider, arch.numbers["openat"], arch.audit, writing) == ALLOW
    for flags, allowed in ((1, True), (4, False), (8, False), (0x10, False)):
        assert run(wider, arch.memory_files["memfd_create"], arch.audit, (0, flags, 0, 0, 0, 0)) == (ALLOW if allowed else EPERM)
    for name in CONDITIONS.keys() - {"openat"}:
        for arguments in ((0,) * 6, (2**64 - 1,) * 6, (0, 0, 4, 0, 0, 0)):
            number = arch.numbers[name]
            assert run(strict, number, arch.audit, arguments) == run(wider, number, arch.audit, arguments)
