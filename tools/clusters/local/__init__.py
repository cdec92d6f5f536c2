"""A real Kubernetes node on a Debian machine, without Docker but as root, isolated in its own Linux namespaces.

Its network can only reach this machine, through a virtual link; the machine's own firewall rules and settings are not
changed. All processes are in one control group, which `down` uses to find and kill them.
"""
