"""One program over the processes of many hosts: who they are, and who still lives."""

from r1jax.hosts.cluster import Cluster, detect
from r1jax.hosts.group import Hosts
from r1jax.hosts.rendezvous import join

__all__ = ["Cluster", "Hosts", "detect", "join"]
