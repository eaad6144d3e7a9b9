"""``make demo``: the main job, watched. Nine steps on a whole network on this machine; exit status 0 if all hold."""
