"""A package, so that its one network ends with its last scenario and not with the whole run."""
