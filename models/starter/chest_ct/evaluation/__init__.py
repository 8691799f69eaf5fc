"""The chest CT starter's figures: the model as the node runs it, and a baseline, on scans whose truth is known.

cases      generated scans of other seeds, the same with thicker slices or more noise, real scans with drawn balls
baseline   threshold lungs and a blob filter
judging    the model as a judge
scoring    one case and one judge to a result, which is kept as JSON
figures    results to rows with intervals
pictures   FROC, reliability, robustness, failures
report     tables, JSON
"""
