"""A real Kubernetes on a Debian machine, as root and without Docker, in namespaces of its own.

Its network has no route but to this machine, so nothing in it reaches anything else; this machine gets a link to it, and
no rule or setting of its own is changed. Every process of it is in one control group, by which `down` finds and ends them all.
"""
