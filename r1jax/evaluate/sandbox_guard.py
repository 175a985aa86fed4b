"""What a sandboxed process runs first: it gives up its rights, then runs a program.

    python -I -S sandbox_guard.py SECONDS MEGABYTES < token and program

It knows nothing of r1jax. When the program has run to its end the token goes to
standard output: a program that leaves early cannot have seen it there.
"""

import ctypes
import os
import resource
import struct
import sys

_CAPSET, _CAPABILITY_VERSION = 126, 0x20080522
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_ARCHITECTURE = 0xC000003E  # x86-64
_X32 = 0x40000000  # the bit of the other numbering of system calls
_ALLOW, _REFUSE, _MISSING, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_THREAD = 0x10000  # clone's flag for one

# System calls of x86-64 that are refused (EPERM).
_REFUSED = {
    "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50,
    "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "kill": 62, "tkill": 200,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
    "pidfd_open": 434, "pidfd_send_signal": 424, "pidfd_getfd": 438,
    "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "tgkill": 234,
    "creat": 85, "truncate": 76, "rename": 82, "renameat": 264, "renameat2": 316,
    "mkdir": 83, "mkdirat": 258, "rmdir": 84, "link": 86, "linkat": 265,
    "unlink": 87, "unlinkat": 263, "symlink": 88, "symlinkat": 266,
    "mknod": 133, "mknodat": 259, "chmod": 90, "fchmod": 91, "fchmodat": 268,
    "fchmodat2": 452, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260,
    "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
    "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197,
    "mount": 165, "umount2": 166, "chroot": 161, "pivot_root": 155, "unshare": 272,
    "setns": 308, "open_by_handle_at": 304, "memfd_create": 319, "mq_open": 240,
    "shmget": 29, "semget": 64, "msgget": 68, "bpf": 321, "perf_event_open": 298,
    "userfaultfd": 323, "keyctl": 250, "add_key": 248, "request_key": 249,
    "io_uring_setup": 425, "io_setup": 206, "setrlimit": 160, "prlimit64": 302,
    "setpriority": 141, "sched_setscheduler": 144, "sched_setaffinity": 203,
    "setsid": 112, "setpgid": 109,
}  # fmt: skip
# Newer forms whose arguments a filter cannot see: the C library then uses the older.
_ABSENT = {"clone3": 435, "openat2": 437}
# (number, argument, bits, whether the bits are what is refused)
_BY_FLAGS = ((2, 1, _WRITING, True), (257, 2, _WRITING, True), (56, 0, _THREAD, False))


def main() -> None:
    """Reads token and program, closes the doors, and runs the program."""
    seconds, megabytes = float(sys.argv[1]), int(sys.argv[2])
    token, _, program = sys.stdin.buffer.read().partition(b"\n")
    out = os.dup(1)
    silent = os.open(os.devnull, os.O_RDWR)
    os.dup2(silent, 0)
    os.dup2(silent, 1)
    _limit(seconds, megabytes << 20)
    libc = ctypes.CDLL(None, use_errno=True)
    _drop_capabilities(libc)
    _filter_calls(libc)
    code = compile(program, "<answer>", "exec")
    exec(code, {"__name__": "__main__"})
    os.write(out, token)
    sys.stderr.flush()
    os._exit(0)  # what it left behind (threads, atexit) is not run


def _limit(seconds: float, size: int) -> None:
    cpu = int(seconds) + 1
    for kind, most in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, size),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 256),  # threads, which count as processes
    ):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(kind, (most, most))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Makes root an ordinary user, who owns root's files but has no powers."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    if libc.syscall(_CAPSET, header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "the kernel takes no capabilities away")


def _filter_calls(libc: ctypes.CDLL) -> None:
    """Installs the seccomp filter; what fails here ends the process."""
    steps = _program()
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code)
    header = struct.pack("@HP", len(steps), ctypes.addressof(buffer))
    for call in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


def _program() -> list[tuple[int, int, int, int]]:
    """Writes the filter: (operation, jump if true, jump if false, operand) a step."""
    load, equal, above, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    steps = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, _ARCHITECTURE),
        (give, 0, 0, _KILL),
        (load, 0, 0, 0),  # the number of the call
        (above, 0, 1, _X32),
        (give, 0, 0, _KILL),
    ]
    for number, argument, mask, refused in _BY_FLAGS:
        jumps = (0, 1) if refused else (1, 0)
        steps += [
            (equal, 0, 4, number),
            (load, 0, 0, 16 + 8 * argument),
            (bits, *jumps, mask),
            (give, 0, 0, _REFUSE),
            (give, 0, 0, _ALLOW),
        ]
    for numbers, answer in ((_REFUSED, _REFUSE), (_ABSENT, _MISSING)):
        for number in numbers.values():
            steps += [(equal, 0, 1, number), (give, 0, 0, answer)]
    return [*steps, (give, 0, 0, _ALLOW)]


if __name__ == "__main__":
    main()
