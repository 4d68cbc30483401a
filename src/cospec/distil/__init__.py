"""`cospec distil`: a drafter is made out of an ensemble's own member, or reads its members' hidden states.

It learns from texts that the ensemble wrote:
`texts` (what the ensemble answers to prompts, with r at each token) -> `hidden` (for a head, the members' states there)
-> `training` (of a member's first layers, or of a head) over `loss` -> `acceptance` (on held-out prompts) -> `folder`
(what `--proposer` takes); `run` goes through them, and on from where it was cut off.
"""
