"""Evidence of real TEEs: published samples verify, nothing that was changed is accepted, and every fault has a name."""

from __future__ import annotations

import datetime
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.kit.attestation.chains import parse_certificates
from enclaves.kit.attestation.nitro import verify_nitro
from enclaves.kit.attestation.platform import PlatformEvidence, bound_data, verify_platform
from enclaves.kit.attestation.snp import AMD_ROOTS, verify_snp
from policies.attestation import SnpFloor, TdxFloor, TrustVector, refusal
from policies.errors import EvidenceRejected
from tests.support.platforms import AT, Chipmaker, NitroMaker, Sample, issue, p384, samples, seconds, vector

SAMPLES = samples()
FLIPS = 2000 if os.environ.get("SANDBOX_FULL") else 200
WHEN = datetime.datetime.fromtimestamp(AT, datetime.UTC)
BOUND = b"\7" * 64


def by_name(sample: Sample) -> str:
    return sample.name


def sample_of(name: str) -> Sample:
    if not SAMPLES:
        pytest.skip("published test vectors ../shared/vectors/attestation are missing")
    return next(sample for sample in SAMPLES if sample.name == name)


def refused(act: Callable[[], Any]) -> str:
    with pytest.raises(EvidenceRejected) as caught:
        act()
    return str(caught.value.code)


def is_accepted(evidence: PlatformEvidence, at: float) -> bool:
    try:
        return refusal(verify_platform(evidence, at)) is None
    except EvidenceRejected:
        return False


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
def test_published_evidence_is_genuine_and_judged(sample: Sample) -> None:
    result = verify_platform(sample.evidence, sample.at)
    found = refusal(result)
    assert (found[0] if found else None) == sample.refused
    ear = result.ear(int(sample.at))["submods"]["cpu0"]
    assert ear["ear.status"] == ("contraindicated" if sample.refused == "debug" else "affirming")
    unknown = sample.evidence.kind == "intel-tdx" and sample.evidence.collateral is None
    assert ear["ear.trustworthiness-vector"]["hardware"] == (0 if unknown else 2), "nothing is claimed of firmware that nobody looked at"


@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
def test_no_flipped_bit_is_accepted(sample: Sample) -> None:
    draw = random.Random(sample.name)
    for _ in range(FLIPS):
        document = flipped(sample.evidence.document, draw.randrange(8 * len(sample.evidence.document)))
        assert not is_accepted(replace(sample.evidence, document=document), sample.at)


@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
def test_only_bytes_behind_a_quote_may_change_without_being_called_false(sample: Sample) -> None:
    draw = random.Random(sample.name + "signed")
    length = 4935 if sample.name.startswith("tdx") else len(sample.evidence.document)
    for _ in range(FLIPS // 4):
        document = flipped(sample.evidence.document, draw.randrange(8 * length))
        refused(lambda changed=document: verify_platform(replace(sample.evidence, document=changed), sample.at))


def test_no_flipped_bit_of_the_collateral_is_accepted() -> None:
    sample = sample_of("tdx-collateral")
    draw = random.Random(7)
    assert sample.evidence.collateral is not None
    for _ in range(FLIPS):
        collateral = flipped(sample.evidence.collateral, draw.randrange(8 * len(sample.evidence.collateral)))
        assert not is_accepted(replace(sample.evidence, collateral=collateral), sample.at)


@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
@settings(deadline=None, max_examples=15)
@given(cut=st.integers(0, 5100), more=st.binary(max_size=40))
def test_cut_or_lengthened_evidence_is_not_accepted(sample: Sample, cut: int, more: bytes) -> None:
    document = sample.evidence.document[:cut] + more
    if document != sample.evidence.document and document.rstrip(b"\0") != sample.evidence.document.rstrip(b"\0"):
        assert not is_accepted(replace(sample.evidence, document=document), sample.at)


@pytest.mark.parametrize("kind", ["amd-sev-snp", "intel-tdx", "aws-nitro", "simulated", "sgx"])
@settings(deadline=None, max_examples=30)
@given(document=st.binary(max_size=1500))
def test_noise_is_no_evidence(kind: Any, document: bytes) -> None:
    refused(lambda: verify_platform(PlatformEvidence(kind=kind, document=document, chain=(document,)), AT))


@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
@pytest.mark.parametrize("kind", ["amd-sev-snp", "intel-tdx", "aws-nitro"])
def test_evidence_of_another_kind_is_refused(sample: Sample, kind: Any) -> None:
    if kind != sample.evidence.kind:
        assert refused(lambda: verify_platform(replace(sample.evidence, kind=kind), sample.at)) in ("format", "version", "chain-incomplete")


@pytest.mark.parametrize(
    ("name", "at", "code"),
    [
        ("snp-debug", "2031-01-01", "certificate-expired"),
        ("snp-debug", "2021-01-01", "certificate-not-yet-valid"),
        ("nitro", "2022-10-13T13:00:00", "certificate-expired"),
        ("nitro", "2022-10-13T08:00:00", "certificate-not-yet-valid"),
        ("tdx-v5", "2034-01-01", "certificate-expired"),
        ("tdx-v5", "2025-01-01", "certificate-not-yet-valid"),
        ("tdx-collateral", "2025-08-01", "collateral-expired"),
        ("tdx-collateral", "2025-06-01", "collateral-not-yet-valid"),
    ],
)
def test_evidence_out_of_time_is_refused_by_name(name: str, at: str, code: str) -> None:
    assert refused(lambda: verify_platform(sample_of(name).evidence, seconds(at))) == code


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -1e30, 1e30])
def test_a_time_that_is_none_is_refused(at: float) -> None:
    assert refused(lambda: verify_platform(sample_of("nitro").evidence, at)) == "time"


@pytest.mark.parametrize(
    ("chain", "code"),
    [
        ((), "chain-incomplete"),
        (("snp/vcek.der",), "chain-incomplete"),
        (("snp/ask_ark_milan.pem",), "chain-incomplete"),
        (("snp/vcek.der", "snp/ask_ark_genoa.pem"), "chain-incomplete"),
        (("snp/vcek.der", "snp/ask_ark_milan_vlek.pem"), "chain-incomplete"),
        (("snp/vcek.der", "nitro/root.pem"), "chain-incomplete"),
        (("snp/vcek.der", "tdx/quote-v4.bin"), "foreign-root"),
        (("snp/vcek.der", "nitro/valid.cbor"), "chain-format"),
    ],
)
def test_a_chain_of_others_is_refused(chain: tuple[str, ...], code: str) -> None:
    evidence = replace(sample_of("snp-debug").evidence, chain=tuple(map(vector, chain)))
    assert refused(lambda: verify_platform(evidence, seconds("2024-01-01"))) == code


@pytest.mark.parametrize("name", ["milan", "milan_vlek", "genoa", "genoa_vlek", "turin_vcek", "turin_vlek"])
def test_every_published_chain_of_amd_ends_at_a_pinned_root(name: str) -> None:
    from enclaves.kit.attestation.chains import order_chain, verify_chain

    middle, root = parse_certificates(vector(f"snp/ask_ark_{name}.pem"))
    verify_chain(order_chain(middle, [root]), AMD_ROOTS, WHEN)


# Chips of one's own: what published samples do not show


@pytest.mark.parametrize("signer", ["VCEK", "VLEK"])
@pytest.mark.parametrize("product", ["Milan-B0", "Genoa-B1", "Turin-B0"])
def test_a_report_by_either_key_on_every_product_is_genuine(signer: str, product: str) -> None:
    turin = {"fmc": 3} if product.startswith("Turin") else {}
    maker = Chipmaker(product=product, signer=signer, tcb={"bootloader": 4, "tee": 1, "snp": 23, "microcode": 213} | turin)
    result = verify_snp(maker.report(BOUND), maker.chain, WHEN, maker.roots)
    assert refusal(result, measurements=[result.measurement]) is None
    assert (result.claims["signer"], result.claims["tcb"], result.bound) == (signer.lower(), maker.tcb, BOUND.hex())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"policy": 0xB0000}, "debug"),
        ({"policy": 0x70000}, "migratable"),
        ({"measurement": bytes(48)}, "measurement"),
        ({"measurement": b"\xa2" * 48}, "measurement"),
        ({"vmpl": 1}, "status"),
    ],
)
def test_a_genuine_report_that_is_not_good_enough_is_refused_by_name(change: dict[str, Any], code: str) -> None:
    maker = Chipmaker()
    wanted = verify_snp(maker.report(BOUND), maker.chain, WHEN, maker.roots).measurement
    result = verify_snp(maker.report(BOUND, **change), maker.chain, WHEN, maker.roots)
    found = refusal(result, measurements=[wanted])
    assert found is not None
    assert found[0] == code


def test_a_foreign_root_is_refused() -> None:
    maker = Chipmaker()
    assert refused(lambda: verify_snp(maker.report(BOUND), maker.chain, WHEN)) == "foreign-root"
    nitro = NitroMaker()
    assert refused(lambda: verify_nitro(nitro.document(), WHEN)) == "foreign-root"


@pytest.mark.parametrize("part", ["bootloader", "tee", "snp", "microcode"])
def test_a_report_of_other_firmware_than_the_signers_is_refused(part: str) -> None:
    maker = Chipmaker()
    maker.leaf = maker.certify(**{part: 99})
    assert refused(lambda: verify_snp(maker.report(BOUND), maker.chain, WHEN, maker.roots)) == "platform"


def test_a_report_of_another_chip_is_refused() -> None:
    maker = Chipmaker()
    maker.chip = b"\x5b" * 64
    assert refused(lambda: verify_snp(maker.report(BOUND), maker.chain, WHEN, maker.roots)) == "platform"


def test_a_report_that_names_the_other_kind_of_key_is_refused() -> None:
    maker = Chipmaker(signer="VLEK")
    maker.signer = "VCEK"
    assert refused(lambda: verify_snp(maker.report(BOUND), maker.chain, WHEN, maker.roots)) == "platform"


@pytest.mark.parametrize("version", [0, 1, 6, 2**31])
def test_reports_of_unknown_versions_are_refused(version: int) -> None:
    maker = Chipmaker()
    assert refused(lambda: verify_snp(maker.report(BOUND, version=version), maker.chain, WHEN, maker.roots)) == "version"


def test_an_issuer_that_is_no_authority_is_refused() -> None:
    maker = Chipmaker()
    maker.middle = issue("SEV-Test", maker.middle_key, ("ARK-Test", maker.root_key), ca=False)
    assert refused(lambda: verify_snp(maker.report(BOUND), maker.chain, WHEN, maker.roots)) == "chain-incomplete"
    nitro = NitroMaker()
    key = p384()
    below = issue("below", key, ("module", nitro.leaf_key), ca=False)
    nitro.leaf_key, bundle = key, [nitro.root.public_bytes(Encoding.DER), nitro.leaf.public_bytes(Encoding.DER)]
    document = nitro.document(nitro.payload(certificate=below.public_bytes(Encoding.DER), cabundle=bundle))
    assert refused(lambda: verify_nitro(document, WHEN, nitro.roots)) == "chain-authority"


def test_a_certificate_by_another_key_of_the_same_name_is_refused() -> None:
    maker = Chipmaker()
    maker.middle = issue("SEV-Test", maker.middle_key, ("ARK-Test", p384()), ca=True)
    assert refused(lambda: verify_snp(maker.report(BOUND), maker.chain, WHEN, maker.roots)) == "chain-signature"


FLOOR = SnpFloor(bootloader=4, tee=1, snp=23, microcode=213)


@pytest.mark.parametrize("part", ["bootloader", "tee", "snp", "microcode", "fmc"])
def test_old_firmware_is_refused_by_name(part: str) -> None:
    maker = Chipmaker()
    result = verify_snp(maker.report(BOUND), maker.chain, WHEN, maker.roots)
    assert refusal(result, floors=[FLOOR]) is None
    found = refusal(result, floors=[FLOOR, replace(FLOOR, **{part: getattr(FLOOR, part) + 1})])
    assert found is not None
    assert found[0] == "tcb"


def test_an_intel_platform_has_to_be_in_an_agreed_state() -> None:
    sample = sample_of("tdx-collateral")
    result = verify_platform(sample.evidence, sample.at)
    outdated = replace(result, claims=result.claims | {"tcb_status": "OutOfDate"})
    assert [refusal(found) and refusal(found)[0] for found in (result, outdated)] == [None, "tcb"]  # type: ignore[index]
    assert refusal(outdated, floors=[TdxFloor(statuses=("UpToDate", "OutOfDate"))]) is None


def test_what_is_not_claimed_is_refused() -> None:
    sample = sample_of("tdx-collateral")
    result = verify_platform(sample.evidence, sample.at)
    for claim in ("debug", "measured", "tcb_status"):
        assert refusal(replace(result, claims={k: v for k, v in result.claims.items() if k != claim})) is not None
    assert refusal(replace(result, vector=TrustVector())) is not None


def _payload(maker: NitroMaker, **changed: Any) -> bytes:
    return maker.document(maker.payload(**changed))


@pytest.mark.parametrize(
    "document",
    [
        lambda m: m.document([]),
        lambda m: m.document({}),
        lambda m: m.document(m.payload() | {"more": 1}),
        lambda m: m.document({k: v for k, v in m.payload().items() if k != "nonce"}),
        lambda m: m.document(raw=b"\xff"),
        lambda m: m.document(raw=b"\x9f" * 3000),
        lambda m: m.document(protected={1: -7}),
        lambda m: m.document(protected={1: -35, 4: b"kid"}),
        lambda m: m.document(unprotected={4: b"kid"}),
        lambda m: _payload(m, digest="SHA256"),
        lambda m: _payload(m, timestamp=-1),
        lambda m: _payload(m, timestamp=True),
        lambda m: _payload(m, timestamp="now"),
        lambda m: _payload(m, pcrs={}),
        lambda m: _payload(m, pcrs={0: b"short", 1: b"\1" * 48, 2: b"\1" * 48}),
        lambda m: _payload(m, pcrs=[b"\1" * 48] * 3),
        lambda m: _payload(m, cabundle=[]),
        lambda m: _payload(m, cabundle="root"),
        lambda m: _payload(m, user_data="text"),
        lambda m: _payload(m, certificate=None),
        lambda m: cbor2.dumps(cbor2.CBORTag(17, cbor2.loads(m.document()))),
        lambda m: m.document() + b"\0",
        lambda m: b"\x9f" + m.document()[1:] + b"\xff",
    ],
)
def test_documents_of_the_right_shape_and_the_wrong_meaning_are_refused(document: Callable[[NitroMaker], bytes]) -> None:
    maker = NitroMaker()
    assert refusal(verify_nitro(maker.document(), WHEN, maker.roots)) is None
    assert refused(lambda: verify_nitro(document(maker), WHEN, maker.roots)) == "format"


def test_a_tagged_document_is_as_good() -> None:
    maker = NitroMaker()
    assert verify_nitro(cbor2.dumps(cbor2.CBORTag(18, cbor2.loads(maker.document()))), WHEN, maker.roots).bound == BOUND.hex()


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: {},
        lambda fields: [fields],
        lambda fields: fields | {"more": "1"},
        lambda fields: fields | {"tcb_info": 7},
        lambda fields: fields | {"tcb_info": "{}"},
        lambda fields: fields | {"tcb_info": fields["qe_identity"]},
        lambda fields: fields | {"pck_crl": "00"},
        lambda fields: fields | {"root_ca_crl": fields["pck_crl"]},
        lambda fields: fields | {"tcb_info_issuer_chain": fields["pck_crl_issuer_chain"]},
        lambda fields: fields | {"tcb_info_signature": fields["qe_identity_signature"]},
        lambda fields: fields | {"tcb_info": fields["tcb_info"].replace("UpToDate", "OutOfDate")},
    ],
)
def test_collateral_of_the_right_shape_and_the_wrong_meaning_is_refused(change: Callable[[dict[str, str]], Any]) -> None:
    sample = sample_of("tdx-collateral")
    assert sample.evidence.collateral is not None
    collateral = json.dumps(change(json.loads(sample.evidence.collateral))).encode()
    assert refused(lambda: verify_platform(replace(sample.evidence, collateral=collateral), sample.at)) == "collateral"


def test_collateral_of_another_platform_is_refused() -> None:
    sample = sample_of("tdx-v4")
    evidence = replace(sample.evidence, collateral=vector("tdx/collateral.json"))
    assert refused(lambda: verify_platform(evidence, seconds("2025-06-19T11:00:00"))) in ("collateral", "tcb")


def test_what_a_tee_binds_has_its_64_bytes() -> None:
    assert len(bound_data(b"claims")) == 64
    assert bound_data(b"claims")[48:] == bytes(16)
