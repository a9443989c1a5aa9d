"""Linux guests of Debian packages with the agent as we ship it, built on this machine and kept in the cache.

A guest's *base* is Debian's own packages, unpacked and trimmed, with the agent's dependencies: the same for every release, and
for arm64 as quickly made as for amd64, because nothing of the guest is run to build it. A *slot image* is a base with the agent
of this tree, our units, `rootfs/`, and what makes a release good or bad, as a squashfs with its kernel and initrd in `/boot`.
What is in the cache is named by a hash of all it was made of.
"""

import fcntl
import functools
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.boot import cpio

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
KEPT_S = 86400.0
SUITE = "bookworm"
PACKAGES = """
systemd systemd-sysv udev kmod python3 base-passwd base-files dash coreutils util-linux mount libc-bin busybox-static
"""
INITRD_MODULES = ("virtio_pci", "virtio_blk", "squashfs")
MODULES = (
    *INITRD_MODULES,
    *("virtio_net", "virtio_console", "qemu_fw_cfg", "i6300esb", "vfat", "nls_cp437", "nls_ascii", "ext4"),
    *("crc32c_generic", "crc32c_intel"),
)
TRIMMED = """
usr/share/doc usr/share/man usr/share/locale usr/share/info usr/share/zsh usr/share/bash-completion usr/share/lintian
usr/share/perl5 usr/share/bug usr/share/initramfs-tools usr/share/zoneinfo usr/share/polkit-1 usr/lib/klibc
usr/lib/*/perl-base usr/lib/*/gconv usr/lib/apt usr/lib/dpkg var/lib/apt var/lib/dpkg var/cache lib/udev/hwdb.d
lib/klibc* boot/System.map* boot/config* usr/bin/perl* usr/lib/python3.11/lib2to3 usr/lib/python3.11/pydoc_data
usr/lib/python3.11/ensurepip etc/apt etc/initramfs-tools usr/src usr/lib/python3.11/idlelib
usr/lib/python3.11/distutils usr/bin/x86_64 usr/bin/localedef usr/sbin/iconvconfig
"""
UNUSED = """
pycparser bin numpy zstandard/_cffi.*.so securesystemslib/_vendor/ed25519/test_data
"""
"""What the wheels bring and the agent never loads: a second build of zstandard, and the like."""
KEPT = {
    "lib/udev/rules.d": (
        "50-udev-default.rules",
        "60-persistent-storage.rules",
        "80-drivers.rules",
        "99-systemd.rules",
    ),
    "lib/systemd/system-generators": ("systemd-fstab-generator",),
}
"""Of these folders nothing else: an emulated guest spends seconds on what it has no devices for."""
MASKED = """
getty@.service serial-getty@.service getty.target systemd-logind.service systemd-update-utmp.service apt-daily.timer
apt-daily-upgrade.timer dpkg-db-backup.timer systemd-update-utmp-runlevel.service systemd-hwdb-update.service fstrim.timer
systemd-timesyncd.service systemd-pstore.service e2scrub_all.timer systemd-random-seed.service systemd-boot-random-seed.service
sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount systemd-firstboot.service
systemd-machine-id-commit.service systemd-rfkill.socket modprobe@drm.service systemd-ask-password-wall.path
systemd-ask-password-console.path systemd-sysusers.service systemd-journal-flush.service kmod-static-nodes.service
proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount sys-kernel-config.mount systemd-binfmt.service
systemd-pcrphase-sysinit.service systemd-pcrphase.service systemd-repart.service systemd-user-sessions.service
systemd-initctl.socket systemd-journald-audit.socket systemd-tmpfiles-clean.timer systemd-sysctl.service
modprobe@configfs.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@dm_mod.service modprobe@loop.service
"""
ENABLED = {
    "multi-user.target": ("otaria-agent", "otaria-clean-shutdown", "gateway-enrol", "gateway-shell", "gateway-network"),
    "sysinit.target": ("otaria-early-watchdog",),
}
UNITS = (
    "systemd/otaria-agent.service",
    "boot/systemd/otaria-clean-shutdown.service",
    "systemd/otaria-early-watchdog.service",
)
USERS = (
    "systemd-network:998 systemd-journal:999 systemd-timesync:997 messagebus:996 render:995 sgx:994 kvm:993 input:992"
)


@dataclass(frozen=True, kw_only=True)
class Arch:
    """A Debian architecture, and what the wheels of Python call it."""

    debian: str
    wheels: str


AMD64 = Arch(debian="amd64", wheels="x86_64")
ARM64 = Arch(debian="arm64", wheels="aarch64")


@dataclass(frozen=True, kw_only=True)
class Change:
    """What makes one release differ: files by path (None: removed), and links by path."""

    files: Mapping[str, str | None] | None = None
    links: Mapping[str, str] | None = None


def call(*argv: str | Path, data: bytes = b"", timeout_s: float = 900.0, cwd: Path | None = None) -> str:
    """Run a program of Debian's; its output. A failure shows what it said."""
    environment = {**os.environ, "PATH": PATH, "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": "1700000000"}
    words = [str(word) for word in argv]
    done = subprocess.run(
        words, capture_output=True, timeout=timeout_s, env=environment, input=data, cwd=cwd, check=False
    )
    assert done.returncode == 0, (
        f"{words[:3]} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}"
    )
    return done.stdout.decode(errors="replace")


@dataclass(frozen=True, kw_only=True)
class Guests:
    """The guests' images in `cache`."""

    cache: Path

    def base(self, arch: Arch) -> Path:
        """The unpacked base of an architecture."""
        return self._kept(f"base-{arch.debian}", _recipe(), lambda out: _make_base(arch, out))

    def slot(self, arch: Arch, version: str, counter: int, change: Change) -> Path:
        """The slot image of a release."""
        base = self.base(arch)
        sources = [*_python_files(), *sorted((PROJECT / "deploy").rglob("*.service")), *_files(HERE / "rootfs")]
        key = _digest(sources, f"{base.name} {version} {counter} {change}")

        def make(out: Path) -> None:
            tree = out.with_name(out.name + ".tree")
            try:
                _make_tree(base, tree, version, counter, change)
                _squash(tree, out)
            finally:
                shutil.rmtree(tree, ignore_errors=True)

        return self._kept(f"slot-{arch.debian}-{version}", key, make)

    def kernel(self, arch: Arch) -> tuple[Path, Path]:
        """Kernel and initrd of the guests, for boot loaders that do not read slots."""
        base = self.base(arch)
        return base / "boot/vmlinuz", base / "boot/initrd.img"

    def _kept(self, name: str, key: str, make: Callable[[Path], None]) -> Path:
        """`name` of this key, made if need be; older ones of that name are removed."""
        path = self.cache / f"{name}-{key}"
        with self._locked(name):
            if not path.exists():
                self._forget(name, key)
                new = self.cache / f"{name}-{key}.new"
                make(new)
                new.rename(path)
        return path

    def _forget(self, name: str, key: str) -> None:
        """Remove what was made of older recipes; not what another run may still use."""
        for old in self.cache.glob(f"{name}-{'?' * len(key)}*"):
            if old.stat().st_mtime < time.time() - KEPT_S:
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def guests() -> Guests:
    """Those in the cache that `make` names."""
    given = os.environ.get("OTARIA_CACHE")
    home = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "otaria"
    return Guests(cache=home / "boot-guests")


# The base


def _make_base(arch: Arch, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    archive = out.with_name(out.name + ".tar")
    try:
        words = [*PACKAGES.split(), f"linux-image-{arch.debian}"]
        call(
            *("mmdebstrap", "--variant=extract", f"--architectures={arch.debian}", "--skip=check/qemu", "--quiet"),
            *(f"--include={','.join(words)}", SUITE, archive, *_sources()),
        )
        with tarfile.open(archive) as tar:
            plain = [member for member in tar if not (member.ischr() or member.isblk() or member.isfifo())]
            tar.extractall(out, members=plain, filter="fully_trusted")  # noqa: S202 - made by us a moment ago
    finally:
        archive.unlink(missing_ok=True)
    _trim(out)
    _keep_modules(out)
    _install_python(arch, out)
    _make_initrd(out)
    _settle(out)


def _sources() -> list[Path]:
    """The apt sources of this machine, which reach Debian from here."""
    found = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.sources"))]
    return [path for path in found if path.exists() and "debian" in path.read_text()]


def _trim(tree: Path) -> None:
    for pattern in TRIMMED.split():
        for path in tree.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for folder, names in KEPT.items():
        for path in (tree / folder).iterdir():
            if path.name not in names:
                path.unlink()
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    kernel.rename(tree / "boot/vmlinuz")


def _keep_modules(tree: Path) -> None:
    """Of the kernel's modules, those that the guests use and what these need."""
    modules = next((tree / "lib/modules").iterdir())
    call("depmod", "-b", tree, modules.name)
    wanted = {path for name in MODULES for path in _with_needs(modules, name)}
    for path in modules.rglob("*.ko"):
        if str(path.relative_to(modules)) not in wanted:
            path.unlink()
    for path in sorted(modules.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    call("depmod", "-b", tree, modules.name)


def _with_needs(modules: Path, name: str) -> list[str]:
    """The files of a module and of all it needs, in the order in which they load; none when it is built in."""
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        if Path(path).stem.replace("-", "_") == name:
            return [*reversed(needs.split()), path]
    return []


def _install_python(arch: Arch, tree: Path) -> None:
    """The agent's dependencies, as wheels of the guest's architecture."""
    where = tree / "usr/lib/python3/dist-packages"
    tags = [f"manylinux{tag}_{arch.wheels}" for tag in ("2014", "_2_17", "_2_28", "_2_34")]
    call(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", where),
        *(word for tag in tags for word in ("--platform", tag)),
        *("--python-version", "3.11", "--only-binary=:all:", "--constraint", PROJECT / "constraints.txt"),
        *_wanted().split("\n"),
    )
    for pattern in UNUSED.split():
        for path in where.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _compile(tree / "usr/lib/python3.11", tree)
    _compile(where, tree)


def _wanted() -> str:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return "\n".join([*project["dependencies"], *project["optional-dependencies"]["agent"]])


def _compile(folder: Path, tree: Path) -> None:
    """Bytecode, as Debian's maintainer scripts would make it; without it an emulated guest compiles for many seconds."""
    if sys.version_info[:2] == (3, 11):
        words = ("-m", "compileall", "-q", "-s", tree, "-p", "/", "--invalidation-mode", "unchecked-hash")
        call(sys.executable, *words, folder)


def _make_initrd(tree: Path) -> None:
    modules = next((tree / "lib/modules").iterdir())
    paths = list(dict.fromkeys(path for name in INITRD_MODULES for path in _with_needs(modules, name)))
    files = {
        "init": ((HERE / "initrd.sh").read_bytes(), 0o755),
        "bin/busybox": ((tree / "bin/busybox").read_bytes(), 0o755),
        "modules/order": ("\n".join(Path(path).name for path in paths).encode() + b"\n", 0o644),
        **{f"modules/{Path(path).name}": ((modules / path).read_bytes(), 0o644) for path in paths},
    }
    (tree / "boot/initrd.img").write_bytes(
        cpio.archive(files, folders=("dev", "proc", "sys", "root", "bin", "modules"))
    )


def _settle(tree: Path) -> None:
    """What Debian's maintainer scripts would have set up, as far as these guests need it."""
    for name in ("passwd", "group"):
        shutil.copy(tree / f"usr/share/base-passwd/{name}.master", tree / f"etc/{name}")
    for user, number in (word.split(":") for word in USERS.split()):
        with (tree / "etc/passwd").open("a") as passwd, (tree / "etc/group").open("a") as group:
            passwd.write(f"{user}:x:{number}:{number}::/:/usr/sbin/nologin\n")
            group.write(f"{user}:x:{number}:\n")
    shutil.copy(tree / "usr/share/libc-bin/nsswitch.conf", tree / "etc/nsswitch.conf")
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/hostname").write_text("gateway\n")
    link(tree / "etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target")
    for unit in MASKED.split():
        link(tree / "etc/systemd/system" / unit, "/dev/null")
    for path in ("boot", "dev", "proc", "sys", "run", "tmp", "var/lib/otaria-agent", "var/log", "efi"):
        (tree / path).mkdir(parents=True, exist_ok=True)


# A slot


def _make_tree(base: Path, tree: Path, version: str, counter: int, change: Change) -> None:
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(base, tree, symlinks=True, copy_function=_hard_link)
    where = tree / "usr/lib/python3/dist-packages"
    for package in ("firmware", "device_agent"):
        shutil.copytree(PROJECT / package, where / package, ignore=shutil.ignore_patterns("__pycache__"))
        _compile(where / package, tree)
    about = where / "otaria-0.1.0.dist-info/METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: otaria\nVersion: 0.1.0\n")
    write(
        tree / "usr/bin/otaria-agent", "#!/usr/bin/python3\nfrom device_agent.cli import main\n\nmain()\n", mode=0o755
    )
    for unit in UNITS:
        shutil.copy(PROJECT / "deploy" / unit, tree / "etc/systemd/system" / Path(unit).name)
    shutil.copytree(HERE / "rootfs", tree, symlinks=True, dirs_exist_ok=True)
    for target, units in ENABLED.items():
        for unit in units:
            link(tree / f"etc/systemd/system/{target}.wants/{unit}.service", f"/etc/systemd/system/{unit}.service")
    # As long in every release: another length would shift what follows in its block, and make the delta many times larger.
    write(tree / "etc/gateway-release", f"{version:>8} {counter:03}\n")
    _apply(change, tree)


def _hard_link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)


def _apply(change: Change, tree: Path) -> None:
    for name, text in (change.files or {}).items():
        path = tree / name
        path.unlink(missing_ok=True)
        if text is not None:
            write(path, text, mode=0o755 if text.startswith("#!") else 0o644)
    for name, target in (change.links or {}).items():
        link(tree / name, target)


def write(path: Path, text: str, *, mode: int = 0o644) -> None:
    """A new file; one that is linked with the base's is replaced, not written into."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def link(path: Path, target: str) -> None:
    """A symbolic link in the place of whatever is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _squash(tree: Path, out: Path) -> None:
    out.unlink(missing_ok=True)
    quick = ("-comp", "gzip", "-Xcompression-level", "4", "-b", "65536", "-processors", "1")
    call("mksquashfs", tree, out, "-all-root", "-noappend", "-no-progress", "-no-xattrs", *quick)


# The cache's names


@functools.cache
def _recipe() -> str:
    """The hash of what bases are made of, the same as long as this process lives."""
    return _digest([Path(__file__), Path(cpio.__file__), HERE / "initrd.sh", PROJECT / "constraints.txt"], _wanted())


def _python_files() -> list[Path]:
    return [path for package in ("firmware", "device_agent") for path in sorted((PROJECT / package).rglob("*.py"))]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _digest(paths: Iterable[Path], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for path in paths:
        mode = path.lstat().st_mode
        content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        digest.update(f"{path.relative_to(PROJECT)} {stat.S_IMODE(mode) & 0o111} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]
