"""What is measured of a running pair. Each measurement drives one kind of load and returns plain numbers."""

import json
import re
import subprocess
import threading
import time

import wire
from process import busy_seconds, cpu_seconds, own_seconds, resident_kib

CONNECTIONS = 64
MANY_CONNECTIONS = 1000
RATE = 1000
RATE_CONNECTIONS = 16
STREAM_CONNECTIONS = 10
STREAMS = 100
LARGE_MIB = 256
LARGE_TIMES = 4
MEMORY_AT = 0.8  # Of a load's time.
PATIENCE_S = 120


class Load:
    """The load generator's place, and the pair it drives."""

    def __init__(self, peer, proxies, backend, cpu, seconds, latency):
        self.peer, self.proxies, self.backend = peer, proxies, backend
        self.cpu, self.seconds, self.latency = cpu, seconds, latency

    def run(self, *command):
        command = wire.inside(wire.CLIENT, "taskset", "-c", self.cpu, *command)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S)
        if done.returncode:
            raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def answers(self):
        """Whether a request gets through."""
        try:
            return self.run("curl", "-sf", "-m", 1, "-o", "/dev/null", url()) == ""
        except RuntimeError:
            return False

    def wrk(self, connections, seconds):
        text = self.run("wrk", "-t1", "-c", connections, "-d", f"{seconds}s", url())
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        return {
            "requests": int(re.search(r"(\d+) requests in", text)[1]),
            "rps": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
            "failures": sum(map(int, errors.groups() if errors else ())) + int(refused[1] if refused else 0),
        }


def url(path="/", port=wire.HTTP1_PORT):
    return f"http://{wire.SERVER_ADDRESS}:{port}{path}"


class Cpu:
    """CPU time of the proxies over a block, and how much of the machine somebody else used meanwhile."""

    def __init__(self, load):
        self.load = load

    def __enter__(self):
        self.start, self.wall = self.read(), time.monotonic()
        return self

    def __exit__(self, *_):
        user, system, ours, busy = (end - start for start, end in zip(self.start, self.read()))
        wall = time.monotonic() - self.wall
        self.user, self.system = user, system
        self.foreign = max(0.0, busy - ours) / wall

    def read(self):
        proxies = [cpu_seconds(process.pid) for process in self.load.proxies]
        user, system = sum(each[0] for each in proxies), sum(each[1] for each in proxies)
        ours = user + system + sum(cpu_seconds(self.load.backend.pid)) + own_seconds()
        return user, system, ours, busy_seconds()

    def per_request(self, requests):
        micros = 1e6 / max(requests, 1)
        user, system = self.user * micros, self.system * micros
        return {"cpu_us": user + system, "user_us": user, "system_us": system, "foreign_cores": self.foreign}


def memory_kib(load):
    return sum(resident_kib(process.pid) for process in load.proxies)


def memory_during(load, seconds, drive):
    """What `drive` returns, and the memory shortly before its end."""
    seen = []
    timer = threading.Timer(seconds * MEMORY_AT, lambda: seen.append(memory_kib(load)))
    timer.start()
    result = drive()
    timer.join()
    return result, seen[0]


def idle(load):
    """Memory of a pair that has served one request."""
    time.sleep(1)  # Nothing to wait for: that nothing happens is the point.
    return {"memory_kib": memory_kib(load)}


def throughput(load):
    """As fast as it goes, over 64 connections."""
    load.wrk(CONNECTIONS, 2)  # Warm-up.
    with Cpu(load) as cpu:
        result, memory = memory_during(load, load.seconds, lambda: load.wrk(CONNECTIONS, load.seconds))
    return {**result, **cpu.per_request(result["requests"]), "memory_kib": memory}


def latency(load):
    """At a fixed rate, far below what anybody can do."""
    address = f"{wire.SERVER_ADDRESS}:{wire.HTTP1_PORT}"
    with Cpu(load) as cpu:
        result = json.loads(load.run(load.latency, address, RATE_CONNECTIONS, RATE, load.seconds))
    # The probe's warm-up second is served too.
    return {**result, **cpu.per_request((load.seconds + 1) * RATE)}


def connections(load):
    """Memory while a thousand connections are in use."""
    before = memory_kib(load)
    seconds = max(5, load.seconds // 2)
    result, memory = memory_during(load, seconds, lambda: load.wrk(MANY_CONNECTIONS, seconds))
    return {**result, "memory_kib": memory, "kib_per_connection": (memory - before) / MANY_CONNECTIONS}


def streams(load):
    """HTTP/2 from the application: 10 connections with 100 streams each."""
    if not load.peer.http2:
        return None
    seconds = max(3, load.seconds // 2)
    command = ["h2load", "-t1", f"-c{STREAM_CONNECTIONS}", f"-m{STREAMS}", "-D", seconds]
    with Cpu(load) as cpu:
        text = load.run(*command, url(port=wire.HTTP2_PORT))
    requests = int(re.search(r"(\d+) succeeded", text)[1])
    failures = int(re.search(r"(\d+) failed", text)[1]) + int(re.search(r"(\d+) errored", text)[1])
    rps = float(re.search(r"([\d.]+) req/s", text)[1])
    return {"requests": requests, "rps": rps, "failures": failures, **cpu.per_request(requests)}


def bulk(load):
    """A large body, four times over one connection."""
    targets = [word for _ in range(LARGE_TIMES) for word in ("-o", "/dev/null", url("/large"))]
    with Cpu(load) as cpu:
        text = load.run("curl", "-sf", "-w", "%{size_download} %{time_total}\n", *targets)
    parts = [line.split() for line in text.splitlines()]
    size, seconds = sum(int(part[0]) for part in parts), sum(float(part[1]) for part in parts)
    cpu_s = cpu.user + cpu.system
    return {"mb_per_s": size / 1e6 / seconds, "cpu_s_per_gib": cpu_s / (size / 2**30), "foreign_cores": cpu.foreign}


ALL = {
    "idle": idle,
    "throughput": throughput,
    "latency": latency,
    "connections": connections,
    "streams": streams,
    "bulk": bulk,
}
