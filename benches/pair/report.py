"""Tables out of rows: medians over rounds with their range, and ratios against the two peers that matter."""

import statistics

# Heading, measurement, value, how it is shown, scale.
COLUMNS = [
    ("rps", "throughput", "rps", "{:.0f}", 1),
    ("CPU µs/req", "throughput", "cpu_us", "{:.1f}", 1),
    ("user", "throughput", "user_us", "{:.1f}", 1),
    ("system", "throughput", "system_us", "{:.1f}", 1),
    ("p50 µs", "latency", "p50", "{:.0f}", 1),
    ("p99 µs", "latency", "p99", "{:.0f}", 1),
    ("p99.9 µs", "latency", "p999", "{:.0f}", 1),
    ("CPU µs @1k", "latency", "cpu_us", "{:.0f}", 1),
    ("idle MiB", "idle", "memory_kib", "{:.1f}", 1 / 1024),
    ("64 conns MiB", "throughput", "memory_kib", "{:.1f}", 1 / 1024),
    ("1000 conns MiB", "connections", "memory_kib", "{:.1f}", 1 / 1024),
    ("KiB/conn", "connections", "kib_per_connection", "{:.0f}", 1),
    ("h2 rps", "streams", "rps", "{:.0f}", 1),
    ("h2 CPU µs", "streams", "cpu_us", "{:.1f}", 1),
    ("body MB/s", "bulk", "mb_per_s", "{:.0f}", 1),
    ("CPU s/GiB", "bulk", "cpu_s_per_gib", "{:.2f}", 1),
]
BASES = ["haproxy-h2", "envoy-h2"]
# More of the machine than this in somebody else's hands makes a row worth a warning.
FOREIGN_CORES_MAX = 0.15


def summarise(rows):
    """{peer: {heading: {"median", "min", "max"}}}."""
    summary = {}
    for peer in dict.fromkeys(row["peer"] for row in rows):
        for heading, measurement, value, _, scale in COLUMNS:
            taken = [row[value] for row in rows if row["peer"] == peer and row["measurement"] == measurement]
            numbers = [number * scale for number in taken if number is not None]
            if numbers:
                middle = {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}
                summary.setdefault(peer, {})[heading] = middle
    return summary


def ratios(summary):
    """{base: {peer: {heading: median / the base's median}}}."""
    found = {}
    for base in BASES:
        for peer, values in summary.items():
            if base not in summary or peer == base:
                continue
            compared = {
                heading: value["median"] / summary[base][heading]["median"]
                for heading, value in values.items()
                if summary[base].get(heading, {}).get("median")
            }
            found.setdefault(base, {})[peer] = compared
    return found


def tables(summary):
    """Markdown."""
    shown = [column for column in COLUMNS if any(column[0] in values for values in summary.values())]
    headings = [column[0] for column in shown]
    rows = [
        [peer, *(cell(values.get(heading), form) for heading, _, _, form, _ in shown)]
        for peer, values in summary.items()
    ]
    text = table(["pair", *headings], rows)
    for base, peers in ratios(summary).items():
        rows = [[peer, *(cell_of_ratio(values.get(heading)) for heading in headings)] for peer, values in peers.items()]
        text += f"\n\nRatio to {base}:\n\n" + table(["pair", *headings], rows)
    return text


def cell(value, form):
    if value is None:
        return "-"
    middle, low, high = (form.format(value[key]) for key in ("median", "min", "max"))
    return middle if low == high else f"{middle} [{low}-{high}]"


def cell_of_ratio(value):
    return "-" if value is None else f"{value:.2f}"


def table(headings, rows):
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def warnings(rows):
    """What a reader must know before believing the numbers."""
    found = []
    for row in rows:
        if row.get("failures"):
            where = f"{row['peer']}, {row['measurement']}, round {row['round']}"
            found.append(f"{where}: {row['failures']} failures")
    disturbed = [row["foreign_cores"] for row in rows if row.get("foreign_cores", 0) > FOREIGN_CORES_MAX]
    if disturbed:
        most = max(disturbed)
        found.append(f"{len(disturbed)} of {len(rows)} rows were disturbed: others used up to {most:.2f} cores")
    return found
