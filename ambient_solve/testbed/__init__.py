"""A data-curation benchmark for priors: the recipe is fixed, participants bring the data.

A pool of pictures, damaged once, whose truth is sealed (`pool`); a frozen recipe of training (`recipe`); what a
participant hands in, a table of weights and noise levels or pictures of their own (`entry`); what the trained priors
are worth (`score`); and the board (`board`). Every artifact has a JSON record with the hashes of its parents.
"""
