"""Why one substitute transfers better than another: the paper's analyses and their rivals, on the models of any suite.

It may import every folder of the harness up to `runs`, and the whole zoo. Begin with `study`, which loads what an analysis
looks at and remembers what was computed; each analysis is a module with its formulas first: `shift` (Eq. 8), `alignment`
(Eq. 9), `batchnorm` (Fig. 2), `states` (Table IX), `sharpness` (Eqs. 10-11). `report` writes what they find.
"""
