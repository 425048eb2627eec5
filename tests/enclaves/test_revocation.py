"""Revocation lists of a maker of chips: what one revokes is refused, what proves nothing is no list, and without one the claims say so."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.kit.attestation.chains import order_chain, parse_certificates
from enclaves.kit.attestation.platform import verify_platform
from enclaves.kit.attestation.revocation import bundle, judge_revocation, parse_lists
from enclaves.kit.attestation.snp import verify_snp
from policies.attestation import AttestationResult, SnpFloor, refusal
from policies.codec import decode, encode
from policies.errors import EvidenceRejected
from tests.support.platforms import AT, Chipmaker, p384, samples, vector

WHEN = datetime.datetime.fromtimestamp(AT, datetime.UTC)
DAY = datetime.timedelta(days=1)
BOUND = b"\7" * 64
FLOOR = SnpFloor(bootloader=4, tee=1, snp=23, microcode=213)
MAKER = Chipmaker()


def crl(
    revoked: list[x509.Certificate],
    *,
    by: str = "ARK-Test",
    key: Any = None,
    since: datetime.datetime = WHEN - DAY,
    until: datetime.datetime = WHEN + DAY,
    extension: x509.ExtensionType | None = None,
    **sign: Any,
) -> x509.CertificateRevocationList:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by)])
    builder = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(since).next_update(until)
    for certificate in revoked:
        item = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(since).build()
        builder = builder.add_revoked_certificate(item)
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key or MAKER.root_key, hashes.SHA384(), **sign)


def der(item: x509.CertificateRevocationList) -> bytes:
    return item.public_bytes(Encoding.DER)


def verified(lists: bytes | None, maker: Chipmaker = MAKER) -> AttestationResult:
    return verify_snp(maker.report(BOUND), maker.chain, WHEN, maker.roots, lists)


def refused(lists: bytes) -> str:
    with pytest.raises(EvidenceRejected) as caught:
        verified(lists)
    return str(caught.value.code)


OTHER = p384()
OF_THE_MIDDLE = {"by": "SEV-Test", "key": MAKER.middle_key}


def test_a_chain_that_no_list_names_is_as_good_and_the_claims_say_that_it_was_checked() -> None:
    stranger = Chipmaker().middle
    lists = bundle([der(crl([stranger])), der(crl([stranger], **OF_THE_MIDDLE))])
    assert verified(der(crl([]))).claims["revocation"] == "checked"
    assert verified(lists).claims["revocation"] == "checked"


@pytest.mark.parametrize("signer", ["VCEK", "VLEK"])
def test_without_the_roots_list_the_claims_say_so_and_terms_can_refuse_it(signer: str) -> None:
    maker = Chipmaker(signer=signer)
    bare = verified(None, maker)
    assert bare.claims["revocation"] == "no-crl"
    assert verified(der(crl([], **OF_THE_MIDDLE))).claims["revocation"] == "no-crl", "it says nothing of the intermediate"
    assert refusal(bare, floors=[FLOOR]) is None
    found = refusal(bare, floors=[FLOOR, replace(FLOOR, revocation=True)])
    assert found is not None
    assert found[0] == "no-crl"
    assert refusal(verified(der(crl([]))), floors=[replace(FLOOR, revocation=True)]) is None


@pytest.mark.parametrize(
    "lists",
    [
        der(crl([MAKER.root])),
        der(crl([MAKER.middle])),
        der(crl([MAKER.leaf], **OF_THE_MIDDLE)),
        bundle([der(crl([])), der(crl([MAKER.leaf], **OF_THE_MIDDLE))]),
    ],
    ids=["root", "intermediate", "chip", "chip in the second list"],
)
def test_a_revoked_certificate_is_refused_by_name(lists: bytes) -> None:
    assert refused(lists) == "certificate-revoked"


@pytest.mark.parametrize(
    ("lists", "code"),
    [
        (der(crl([], until=WHEN - datetime.timedelta(seconds=1))), "crl-expired"),
        (der(crl([], since=WHEN + datetime.timedelta(seconds=1))), "crl-not-yet-valid"),
        (der(crl([], key=OTHER)), "crl-foreign"),
        (der(crl([], by="ARK-Other", key=OTHER)), "crl-foreign"),
        (der(crl([], by="SEV-VCEK", key=MAKER.chip_key)), "crl-foreign"),
        (der(crl([], by="SEV-Test", key=MAKER.root_key)), "crl-foreign"),
        (der(crl([], extension=x509.DeltaCRLIndicator(1))), "crl-format"),
        (b"\x30\x03\x02\x01\x01", "crl-format"),
        (MAKER.root.public_bytes(Encoding.DER), "crl-format"),
        (b"x" * (1 << 19), "crl-format"),
        (b"text before\n" + crl([]).public_bytes(Encoding.PEM), "crl-format"),
        (crl([]).public_bytes(Encoding.PEM) + b"text behind", "crl-format"),
        (der(crl([])) + b"\0", "crl-format"),
    ],
)
def test_a_list_that_proves_nothing_is_refused_by_name(lists: bytes, code: str) -> None:
    assert refused(lists) == code


def test_one_list_out_of_force_spoils_all() -> None:
    assert refused(bundle([der(crl([])), der(crl([], until=WHEN - DAY / 2))])) == "crl-expired"


@settings(max_examples=60, deadline=None)
@given(bit=st.integers(0, len(der(crl([MAKER.middle]))) * 8 - 1))
def test_no_flipped_bit_takes_a_revocation_back(bit: int) -> None:
    data = bytearray(der(crl([MAKER.middle])))
    data[min(bit // 8, len(data) - 1)] ^= 1 << bit % 8
    with pytest.raises(EvidenceRejected):
        verified(bytes(data))


def test_lists_signed_as_amd_signs_are_read() -> None:
    """RSASSA-PSS with SHA-384 over 4096 bits, as the published roots sign."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=4096)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ARK-Rsa")])
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), padding.PSS.DIGEST_LENGTH)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    root = (
        builder.not_valid_before(WHEN - DAY).not_valid_after(WHEN + DAY).add_extension(usage, critical=True)
        .sign(key, hashes.SHA384(), rsa_padding=pss)
    )  # fmt: skip
    below = MAKER.middle
    made = crl([], by="ARK-Rsa", key=key, rsa_padding=pss)
    assert judge_revocation([below, root], parse_lists(der(made)), WHEN) == "checked"
    revoking = crl([below], by="ARK-Rsa", key=key, rsa_padding=pss)
    with pytest.raises(EvidenceRejected):
        judge_revocation([below, root], parse_lists(der(revoking)), WHEN)


def test_published_evidence_takes_no_list_but_of_its_own_root() -> None:
    found = [sample for sample in samples() if sample.name == "snp-debug"]
    if not found:
        pytest.skip("published test vectors ../shared/vectors/attestation are missing")
    (sample,) = found
    assert verify_platform(sample.evidence, sample.at).claims["revocation"] == "no-crl"
    certificates = parse_certificates(vector("snp/ask_ark_milan.pem"))
    root = order_chain(certificates[0], certificates)[-1]
    at = datetime.datetime.fromtimestamp(sample.at, datetime.UTC)
    forged = (
        x509.CertificateRevocationListBuilder().issuer_name(root.subject).last_update(at - DAY).next_update(at + DAY)
        .sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384())
    )  # fmt: skip
    with pytest.raises(EvidenceRejected) as caught:
        verify_platform(replace(sample.evidence, collateral=der(forged)), sample.at)
    assert caught.value.code == "crl-foreign"
    assert root.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign, "the published root may sign lists"


def test_floors_without_the_term_keep_their_bytes() -> None:
    assert "revocation" not in encode(FLOOR)
    assert decode(SnpFloor, encode(replace(FLOOR, revocation=True))).revocation
