# Tries to get out of a sandbox, in many ways, and prints for each how it went: "done", or the name of the
# error. Nothing in here harms the machine where it works: that is what the control runs it for.
import ctypes
import errno
import json
import os
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
NR = {
    "x86_64": dict(ptrace=101, vm_readv=310, mount=165, unshare=272, bpf=321, keyctl=250, add_key=248,
                   io_uring_setup=425, perf_event_open=298, finit_module=313, setns=308, chroot=161,
                   swapon=167, prlimit64=302, userfaultfd=323, pidfd_open=434, pidfd_getfd=438,
                   pidfd_send_signal=424, clone=56, fsopen=430, kcmp=312),
    "aarch64": dict(ptrace=117, vm_readv=270, mount=40, unshare=97, bpf=280, keyctl=219, add_key=217,
                    io_uring_setup=425, perf_event_open=241, finit_module=273, setns=268, chroot=51,
                    swapon=224, prlimit64=261, userfaultfd=282, pidfd_open=434, pidfd_getfd=438,
                    pidfd_send_signal=424, clone=220, fsopen=430, kcmp=272),
}[os.uname().machine]


def call(name, *args):
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    if libc.syscall(ctypes.c_long(NR[name]), *wide) == -1:
        raise OSError(ctypes.get_errno(), name)


def in_child(work):
    """For what changes the process that does it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            number = 0
        except OSError as error:
            number = error.errno
        os.write(writer, struct.pack("i", number))
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4)
    os.waitpid(child, 0)
    number = struct.unpack("i", said)[0]
    if number:
        raise OSError(number, "in a child")


folder, gate, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
inside = f"{folder}/own"


def at(name):
    return f"{folder}/{name}"


def write(path):
    with open(path, "w") as file:
        file.write("x")


def connect(kind):
    with socket.socket(socket.AF_INET, kind) as link:
        link.connect(("127.0.0.1", port))


def unix():
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(at("listening"))


def detached_ptrace():
    call("ptrace", 0x4206, gate, 0, 0)  # PTRACE_SEIZE does not stop it
    call("ptrace", 17, gate, 0, 0)


def memory_of_the_gate():
    buffer = ctypes.create_string_buffer(1)
    with open(f"/proc/{gate}/maps") as maps:
        start = int(maps.readline().split("-")[0], 16)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 1)
    remote = (ctypes.c_void_p * 2)(start, 1)
    call("vm_readv", gate, local, 1, remote, 1, 0)


def bare_vm_readv():
    call("vm_readv", gate, 0, 0, 0, 0, 0)


def limits_of_the_gate():
    both = ctypes.create_string_buffer(16)
    call("prlimit64", gate, 7, 0, both)
    call("prlimit64", gate, 7, both, 0)


def pidfd():
    return libc.syscall(ctypes.c_long(NR["pidfd_open"]), ctypes.c_long(gate), ctypes.c_long(0))


ATTEMPTS = {
    "read a secret outside": lambda: open(at("secret")).read(),
    "read /etc/shadow": lambda: open("/etc/shadow").read(),
    "list a folder outside": lambda: os.listdir(folder),
    "write outside": lambda: write(at("outside")),
    "cut a file outside": lambda: os.truncate(at("cut"), 0),
    "link a secret inside": lambda: os.link(at("secret"), f"{inside}/link"),
    "read a link to a secret": lambda: (os.path.islink(f"{inside}/soft")
                                        or os.symlink(at("secret"), f"{inside}/soft"),
                                        open(f"{inside}/soft").read()),
    "remove a file outside": lambda: os.unlink(at("remove")),
    "make a folder outside": lambda: os.mkdir(at("folder")),
    "make a device": lambda: os.mknod(f"{inside}/disk", 0o060600, os.makedev(7, 200)),
    "connect over TCP": lambda: connect(socket.SOCK_STREAM),
    "send over UDP": lambda: connect(socket.SOCK_DGRAM),
    "connect to a Unix socket": unix,
    "trace the gate": detached_ptrace,
    "read the gate's memory": memory_of_the_gate,
    "read memory by system call": bare_vm_readv,
    "read the gate's environment": lambda: open(f"/proc/{gate}/environ").read(),
    "signal the gate": lambda: os.kill(gate, 0),
    "signal the gate by descriptor": lambda: call("pidfd_send_signal", pidfd(), 0, 0, 0),
    "take a descriptor of the gate": lambda: call("pidfd_getfd", pidfd(), 0, 0),
    "compare with the gate": lambda: call("kcmp", os.getpid(), gate, 1, 0, 0),
    "change the gate's limits": limits_of_the_gate,
    "mount": lambda: in_child(lambda: call("mount", b"none", inside.encode(), b"no-such", 0, 0)),
    "open a file system": lambda: call("fsopen", b"tmpfs", 0),
    "make namespaces": lambda: in_child(lambda: call("unshare", 0x00020000)),
    "make a namespace by clone": lambda: in_child(lambda: call("clone", 0x04000000 | 0x10000, 0)),
    "enter a namespace": lambda: call("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0),
    "change the root": lambda: in_child(lambda: call("chroot", b"/")),
    "load into the kernel": lambda: call("finit_module", -1, b"", 0),
    "bpf": lambda: call("bpf", 99, 0, 0),
    "keys": lambda: call("keyctl", 0, -3, 1),
    "add a key": lambda: call("add_key", b"user", b"chillgate-test", b"x", 1, -1),
    "rings": lambda: call("io_uring_setup", 0, 0),
    "watch the processor": lambda: call("perf_event_open", 0, 0, 0, 0, 0),
    "handle page faults": lambda: call("userfaultfd", 0),
    "swap": lambda: call("swapon", b"/nowhere", 0),
}

results = {}
for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        results[name] = "done"
    except OSError as error:
        results[name] = errno.errorcode.get(error.errno, str(error.errno))
print(json.dumps(results))
