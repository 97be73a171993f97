"""Becomes a process of a container: run under ``unshare --mount --pid --fork``, with one argument, a JSON object.

``root``: its root directory; ``mounts``: [source, path inside, whether it can be written]; ``read_only``: whether the
root is; ``own_network``: whether it has one; ``user``: numeric user and group; ``env``, ``cwd``, ``argv``.
Runs without any package, as process 1.
"""

import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import sys

READ_ONLY, REMOUNT, BIND = 1, 32, 4096
SET_FLAGS, UP = 0x8914, 1
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind="", flags=0, options=""):
    if LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}")


def bind(source, target, writable):
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        with open(target, "w"):
            pass
    mount(source, target, flags=BIND)
    if not writable:
        mount("none", target, flags=BIND | REMOUNT | READ_ONLY)


def main(task):
    root = task["root"]
    bind(root, root, True)
    for source, path, writable in task["mounts"]:
        bind(source, root + path, writable)
    os.makedirs(f"{root}/proc", exist_ok=True)
    mount("proc", f"{root}/proc", "proc")
    os.makedirs(f"{root}/dev", exist_ok=True)
    mount("tmpfs", f"{root}/dev", "tmpfs", options="mode=755")
    for device in ("null", "zero", "random", "urandom"):
        bind(f"/dev/{device}", f"{root}/dev/{device}", True)
    os.mkdir(f"{root}/dev/shm")
    mount("tmpfs", f"{root}/dev/shm", "tmpfs")
    if task["read_only"]:
        mount("none", root, flags=BIND | REMOUNT | READ_ONLY)
    if task["own_network"]:
        with socket.socket() as any_socket:  # its loopback is down at first
            fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))
    os.chroot(root)
    os.chdir(task["cwd"])
    user, group = task["user"]
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    command, *arguments = task["argv"]
    program = shutil.which(command, path=task["env"]["PATH"])
    if program is None:
        sys.exit(f"{command} is not on the PATH inside")
    os.execve(program, [command, *arguments], task["env"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
