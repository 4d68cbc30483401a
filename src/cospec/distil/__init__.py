"""`cospec distil`: a drafter is made out of an ensemble's own member, on texts that the ensemble wrote.

`texts` (what the ensemble answers to prompts, with r at each token) -> `training` (of a member's first layers) over
`loss` -> `acceptance` (on held-out prompts) -> `folder` (what `--proposer` takes); `run` goes through them, and on from
where it was cut off.
"""
