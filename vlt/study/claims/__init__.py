"""The claims, one file per paper."""

from vlt.study.claim import Claim
from vlt.study.claims import btadapter, msta, order, tempme, token_mixing

CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for room in (token_mixing, tempme, btadapter, msta, order)
    for claim in room.CLAIMS
}
