"""Submissions: what others made, checked without trust and put on the board with its tier of evidence; imports no torch."""
