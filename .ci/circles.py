"""Counts the circles of imports in both packages: one would mean that neither module can be read, or tested, without the other."""

import sys
from graphlib import CycleError, TopologicalSorter

import grimp

graph = grimp.build_graph("pipeline", "tasks", cache_dir=None)
imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
circles = []
while True:
    try:
        TopologicalSorter(imported).prepare()
        break
    except CycleError as error:
        circle = error.args[1]
        circles.append(circle)
        imported[circle[1]] = imported[circle[1]] - {circle[0]}  # and look for others
for circle in circles:
    print(" <- ".join(circle))
print(f"{len(circles)} circles of imports among {len(imported)} modules")
sys.exit(bool(circles))
