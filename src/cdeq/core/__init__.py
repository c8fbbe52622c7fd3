"""Fixed points: solvers, the run, adjoints, the DEQ layer. Needs torch alone."""
