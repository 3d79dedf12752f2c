"""All rows. Importing this fills `benchmarks.row.ROWS`; the order of the imports is that of the table."""

# isort: off
from . import scheduling, tcp, memory, tls, pipes_and_datagrams, clients, applications, processes

__all__ = ["applications", "clients", "memory", "pipes_and_datagrams", "processes", "scheduling", "tcp", "tls"]
