"""Tables over seeds: result files -> mean, spread, order and how sure the order is. Nothing here evaluates a network.

`results` reads files, `categories` splits them by scene, `aggregate` groups them into one table per protocol, `summary`
ranks over tables, `significance` compares methods over their seeds, `paired` two files image by image, `reference` adds
published numbers, `methods` sets them beside official weights and ours, `layout`, `latex` and `writing`
turn a table into text, `pictures` into curves and bars.

`events` reads learning curves; `report/` makes a page about runs.
"""
