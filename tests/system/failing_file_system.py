"""A file system that hands everything on to a folder, and fails where it is told to.

A FUSE process: the kernel asks it, so whoever writes there meets the failure as of a real disk.

    python -m tests.system.failing_file_system FOLDER MOUNTED FAULTS

FAULTS is a file with lines such as `fsync EIO`, read anew at each request:

    OPERATION ERRNO   create, write, fsync, fsyncdir, link, rename, mkdir, ... fails
    all ERRNO         whatever changes something fails
    fsync LOST        a file's fsync fails with EIO and what was written is gone; the next succeeds
    write SHORT       only a part of each write is taken
"""

import errno
import os
import sys
import warnings
from pathlib import Path

from mfusepy import FUSE, Operations

CHANGES = ("create", "write", "link", "rename", "mkdir", "unlink", "rmdir", "truncate")
STATED = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size")
TIMES = ("st_atime", "st_mtime", "st_ctime")


class FailingFileSystem(Operations):
    """Method by method what FUSE asks for; each looks whether it is to fail."""

    use_ns = True

    def __init__(self, folder, faults):
        self._folder = Path(folder)
        self._faults = Path(faults)
        self._lost = set()

    def _path(self, path):
        return self._folder / path.lstrip("/")

    def _fault(self, operation):
        """Raise what the operation is to fail with; returns what else is wrong with it."""
        faults = dict(line.split() for line in self._faults.read_text().splitlines())
        fault = faults.get("all" if "all" in faults and operation in CHANGES else operation)
        if fault in errno.errorcode.values():
            _fail(getattr(errno, fault))
        return fault

    def getattr(self, path, fh=None):
        found = self._path(path).lstat()
        stated = {name: getattr(found, name) for name in STATED}
        return stated | {name: getattr(found, f"{name}_ns") for name in TIMES}

    def readdir(self, path, fh):
        self._fault("readdir")
        return [".", "..", *(one.name for one in self._path(path).iterdir())]

    def statfs(self, path):
        found = os.statvfs(self._path(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}

    def create(self, path, mode, fi=None):
        self._fault("create")
        return os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path, flags):
        return os.open(self._path(path), flags)

    def read(self, path, size, offset, fh):
        self._fault("read")
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        if self._fault("write") == "SHORT":
            data = data[: max(1, len(data) // 3)]
        return os.pwrite(fh, data, offset)

    def fsync(self, path, datasync, fh):
        if self._fault("fsync") == "LOST" and fh not in self._lost:
            self._lost.add(fh)
            os.ftruncate(fh, 0)
            _fail(errno.EIO)
        os.fsync(fh)
        return 0

    def fsyncdir(self, path, datasync, fh):
        self._fault("fsyncdir")
        return 0

    def release(self, path, fh):
        os.close(fh)
        self._lost.discard(fh)
        return 0

    def link(self, target, source):
        self._fault("link")
        self._path(target).hardlink_to(self._path(source))
        return 0

    def rename(self, old, new):
        self._fault("rename")
        self._path(old).replace(self._path(new))
        return 0

    def mkdir(self, path, mode):
        self._fault("mkdir")
        self._path(path).mkdir(mode)
        return 0

    def unlink(self, path):
        self._fault("unlink")
        self._path(path).unlink()
        return 0

    def rmdir(self, path):
        self._fault("rmdir")
        self._path(path).rmdir()
        return 0

    def truncate(self, path, length, fh=None):
        self._fault("truncate")
        os.truncate(self._path(path), length)
        return 0


def _fail(number):
    raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    served, mounted, faults_file = sys.argv[1:]
    FUSE(FailingFileSystem(served, faults_file), mounted, foreground=True, nothreads=True)
