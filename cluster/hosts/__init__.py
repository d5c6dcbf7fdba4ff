"""Hosts to try and test on, made of one Linux machine: each has a network, a name, processes and memory of its own."""

from cluster.hosts.cluster import Cluster, refuse_what_cannot_work
from cluster.hosts.host import Host

__all__ = ["Cluster", "Host", "refuse_what_cannot_work"]
