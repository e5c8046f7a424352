"""Submissions: what others made, checked without trust and put on the board with its tier of evidence; imports no torch.

It may import every folder of the harness but `api` and `commands`. Begin with `make` (a folder becomes a bundle) and `add` (a
bundle becomes rows); `bundle` reads without trust, `measure` scores, `verify` makes a row again, `review` reads a pull
request.
"""
