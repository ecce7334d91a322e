"""A file whose execution takes as long as a test wants."""

from __future__ import annotations

import ctypes
import os
import struct


class Gate:
    """A file whose execution waits in the kernel until it is let through: fanotify's FAN_OPEN_EXEC_PERM (Linux 5.0)."""

    def __init__(self, path):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.fanotify_init(0x4 | 0x1, os.O_RDONLY | os.O_CLOEXEC)  # FAN_CLASS_CONTENT | FAN_CLOEXEC
        assert self.fd >= 0, os.strerror(ctypes.get_errno())
        mark = self.libc.fanotify_mark(self.fd, 0x1, ctypes.c_uint64(0x40000), -100, os.fsencode(path))
        assert mark == 0, os.strerror(ctypes.get_errno())

    def arrives(self):
        """Wait for one who would execute the file; its event's fd."""
        event = os.read(self.fd, 4096)
        return struct.unpack_from("=IBBHQii", event)[5]

    def let_through(self, event_fd):
        """Let it go on."""
        os.write(self.fd, struct.pack("=iI", event_fd, 0x1))
        os.close(event_fd)

    def close(self):
        """Everybody goes through from now on."""
        os.close(self.fd)
