"""Flow analysis of one cell: which global names may be read before the cell itself binds them.

`scope` says to which scope a name belongs, `ledger` keeps the reads and follows the calls of the cell's own functions,
`expressions` and `statements` walk the syntax tree in evaluation order, `hidden` finds the names inside strings.
"""
