"""A real Kubernetes on a Debian machine, as root and without Docker, in namespaces of its own.

Its network has no route but to this machine, so nothing in it reaches anything else. This machine gets a link to it;
no rule or setting of its own is changed. Every process is in one control group, by which `down` finds and ends them.
"""
