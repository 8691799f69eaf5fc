"""A model against a site's own truth: folders of cases in, figures with intervals out.

cases     which cases a folder holds
truth     a case's labels and lesions, on the images' grid
reading   one case through the model, kept so that a broken run goes on
figures   all cases to numbers with intervals
report    table, JSON, TOML for the card
plots     pictures of them
"""
