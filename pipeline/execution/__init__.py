"""Where reductions run: threads in this process, or the task graph on a cluster. Same tree, same bits."""
