"""A filter of system calls for submitted code: one process, one thread, no sockets, no way to a larger world.

What is not on the list fails with EPERM. The list holds what Python and torch need on one thread to compute and to write
into the scratch folder; new calls of later kernels are refused by default. Standard library only: it runs inside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_X86_64 = """
read=0 write=1 pread64=17 pwrite64=18 readv=19 writev=20 lseek=8 close=3 dup=32 dup2=33 dup3=292 flock=73 fsync=74
fdatasync=75 ftruncate=77 truncate=76 open=2 openat=257 stat=4 lstat=6 fstat=5 newfstatat=262 statx=332 access=21
faccessat=269 faccessat2=439 getcwd=79 chdir=80 fchdir=81 getdents=78 getdents64=217 readlink=89 readlinkat=267 mkdir=83
mkdirat=258 rmdir=84 rename=82 renameat=264 renameat2=316 unlink=87 unlinkat=263 chmod=90 fchmod=91 fchmodat=268 umask=95
utimensat=280 statfs=137 fstatfs=138 fadvise64=221 mmap=9 munmap=11 mprotect=10 mremap=25 madvise=28 brk=12 msync=26
mincore=27 poll=7 ppoll=271 select=23 pselect6=270 pipe=22 pipe2=293 eventfd2=290 epoll_create1=291 epoll_ctl=233
epoll_wait=232 epoll_pwait=281 rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 sigaltstack=131 setitimer=38 getitimer=36
alarm=37 nanosleep=35 clock_nanosleep=230 clock_gettime=228 clock_getres=229 gettimeofday=96 time=201 times=100 getrusage=98
sysinfo=99 uname=63 getrlimit=97 getpid=39 gettid=186 getppid=110 getuid=102 geteuid=107 getgid=104 getegid=108 getpgrp=111
getpgid=121 getgroups=115 getresuid=118 getresgid=120 futex=202 sched_yield=24 sched_getaffinity=204 set_robust_list=273
get_robust_list=274 set_tid_address=218 rseq=334 membarrier=324 getcpu=309 getrandom=318 restart_syscall=219 arch_prctl=158
get_mempolicy=239 exit=60 exit_group=231
"""
_AARCH64 = """
read=63 write=64 pread64=67 pwrite64=68 readv=65 writev=66 lseek=62 close=57 dup=23 dup3=24 flock=32 fsync=82
fdatasync=83 ftruncate=46 truncate=45 openat=56 fstat=80 newfstatat=79 statx=291 faccessat=48 faccessat2=439 getcwd=17
chdir=49 fchdir=50 getdents64=61 readlinkat=78 mkdirat=34 renameat=38 renameat2=276 unlinkat=35 fchmod=52 fchmodat=53
umask=166 utimensat=88 statfs=43 fstatfs=44 fadvise64=223 mmap=222 munmap=215 mprotect=226 mremap=216 madvise=233 brk=214
msync=227 mincore=232 ppoll=73 pselect6=72 pipe2=59 eventfd2=19 epoll_create1=20 epoll_ctl=21 epoll_pwait=22
rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139 sigaltstack=132 setitimer=103 getitimer=102 nanosleep=101
clock_nanosleep=115 clock_gettime=113 clock_getres=114 gettimeofday=169 times=153 getrusage=165 sysinfo=179 uname=160
getrlimit=163 getpid=172 gettid=178 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 getpgid=155 getgroups=158
getresuid=148 getresgid=150 futex=98 sched_yield=124 sched_getaffinity=123 set_robust_list=99 get_robust_list=100
set_tid_address=96 rseq=293 membarrier=283 getcpu=168 getrandom=278 restart_syscall=128 get_mempolicy=236 exit=93
exit_group=94
"""
_MACHINES = {
    "x86_64": (0xC000003E, _X86_64, {"prlimit64": 302, "tgkill": 234, "ioctl": 16, "prctl": 157, "fcntl": 72, "clone3": 435}),
    "aarch64": (0xC00000B7, _AARCH64, {"prlimit64": 261, "tgkill": 131, "ioctl": 29, "prctl": 167, "fcntl": 25, "clone3": 435}),
}
_IOCTLS = (0x5401, 0x5450, 0x5451, 0x5421, 0x541B)
"""TCGETS (is this a terminal?), FIONCLEX, FIOCLEX, FIONBIO, FIONREAD."""
_PRCTLS = (15, 16, 0x53564D41)
"""PR_SET_NAME, PR_GET_NAME, PR_SET_VMA (glibc names its memory)."""

_FCNTLS = (0, 1, 2, 3, 5, 6, 7, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_GETLK, F_SETLK, F_SETLKW, F_DUPFD_CLOEXEC. Owners and signals of a file (F_SETOWN,
F_SETSIG, O_ASYNC by F_SETFL, leases) are ways to signal another process."""

_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06


def supported() -> bool:
    """Whether there is a list for this machine."""
    return sys.platform == "linux" and platform.machine() in _MACHINES


def numbers(machine: str) -> dict[str, int]:
    """Return the numbers of the calls that are allowed, those with checked arguments included."""
    _, plain, checked = _MACHINES[machine]
    listed = (item.split("=") for item in plain.split())
    return {**{name: int(number) for name, number in listed}, **checked}


def program(machine: str, pid: int) -> bytes:
    """Return the filter for a process: `pid` may signal itself and nobody else."""
    audit, plain, checked = _MACHINES[machine]
    code = [_op(_LOAD, 4), _op(_EQUAL, audit, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, 0)]
    if machine == "x86_64":  # the x32 numbers are other names for the same calls
        code += [_op(_AT_LEAST, 0x40000000, 0, 1), _op(_RETURN, _KILL)]
    for item in plain.split():
        code += [_op(_EQUAL, int(item.split("=")[1]), 0, 1), _op(_RETURN, _ALLOW)]
    code += _guarded(checked["tgkill"], 0, (pid,))
    code += _guarded(checked["ioctl"], 1, _IOCTLS)
    code += _guarded(checked["prctl"], 0, _PRCTLS)
    code += _guarded(checked["fcntl"], 1, _FCNTLS)
    code += _guarded(checked["prlimit64"], 2, (0,), whole=True)  # reading limits, not setting them
    code += [_op(_EQUAL, checked["clone3"], 0, 1), _op(_RETURN, 0x50000 | errno.ENOSYS)]
    code += [_op(_RETURN, 0x50000 | errno.EPERM)]
    return b"".join(code)


def _guarded(number: int, argument: int, values: tuple[int, ...], whole: bool = False) -> list[bytes]:
    """Allow call `number` when its argument has one of the values; `whole` compares 64 bits, the upper half being 0."""
    body = []
    if whole:
        body += [_op(_LOAD, 16 + 8 * argument + 4), _op(_EQUAL, 0, 1, 0), _op(_RETURN, 0x50000 | errno.EPERM)]
    body.append(_op(_LOAD, 16 + 8 * argument))
    for value in values:
        body += [_op(_EQUAL, value, 0, 1), _op(_RETURN, _ALLOW)]
    body.append(_op(_RETURN, 0x50000 | errno.EPERM))
    return [_op(_EQUAL, number, 0, len(body)), *body]


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install() -> None:
    """Put this process under the filter, for good.

    Raises:
        OSError: the kernel refuses, or there is no list for this machine.
    """
    if not supported():
        raise OSError(errno.ENOSYS, f"no filter of system calls for {sys.platform} on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    code = program(platform.machine(), os.getpid())
    loaded = _Program(len(code) // 8, code)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(loaded), zero, zero):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
