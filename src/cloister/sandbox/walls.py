"""What every runtime's process stands behind: the part of bubblewrap's command line that is the same for all."""

from __future__ import annotations

from typing import Final

SOCKET, BRIDGE = "/run/a/s.sock", "/run/a/p.sock"
# A process that only loads its bundle may use so much CPU time.
WARM_CPU_S: Final = 20
WALLS: Final = (
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
    *("--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL", "--clearenv"),
    *("--uid", "65534", "--gid", "65534", "--hostname", "agent"),
)
