"""Load, and the ceiling of every figure, in one run: `make bench` writes `docs/performance.md` from it.

`python -m bench --list` names the rows, `python -m bench --only single` measures some of them. Nothing imports this
package; it may import everything.
"""
