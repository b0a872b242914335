"""Processes of a run, and what the kernel says about them."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

import wire

TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE_S = 15


@contextlib.contextmanager
def started(namespace, cpu, arguments, log, **options):
    """A process in a namespace, on one core, in the proxies' group; ends with the block."""
    command = wire.inside(namespace, "taskset", "-c", cpu, "setpriv", "--regid", wire.PROXY_GROUP, "--clear-groups")
    with open(log, "ab") as file:
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file, **options}
        process = subprocess.Popen([*command, *map(str, arguments)], **streams)
    try:
        yield process
    finally:
        stop(process)


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    if process.poll() is None:
        process.kill()
    process.wait()


def eventually(what, probe, processes, log):
    """Polls `probe` until it is true, while all of `processes` live."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        if probe():
            return
        time.sleep(0.05)
    raise RuntimeError(f"{what}: not within {PATIENCE_S} s\n{pathlib.Path(log).read_text()[-2000:]}")


def cpu_seconds(pid):
    """User and system time of a process, of all its threads, also those that ended."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def resident_kib(pid):
    """Memory of a process that is in RAM, in KiB."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def busy_seconds():
    """Time that all cores of the machine were busy."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / TICKS


def own_seconds():
    """Time that we and the children that ended used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
