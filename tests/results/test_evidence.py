"""Evidence: exact in Parquet, named by a hash over all of it, with a sample of adversaries."""

import hashlib
import json
import math
import struct
from dataclasses import dataclass, fields, replace

import pyarrow as pa
import pytest
from oracles.evidence import evidence, verdict
from pyarrow import parquet

from robustbench_dyn.errors import InputError, OutputError
from robustbench_dyn.results import evidence_files
from robustbench_dyn.results.evidence import Correction, Evidence, read_header
from robustbench_dyn.results.evidence_files import read_evidence, write_evidence
from robustbench_dyn.results.spec import EvaluationSpec, Record, SmoothingSpec, StageSpec
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Step, Verdict

HEADERS = b"robustbench_dyn.evidence"
CORRECTION = Correction(3, "https://example.org/a;b", "2026-02-01T00:00:00+00:00")


def full():
    """Return evidence with a value in each field, of verdicts with each status."""
    one = evidence(
        "m",
        "cccbbbum",
        first=5,
        flags=("keeps_state", "batch_coupled"),
        signs=(Sign("zero_gradients", 1 / 3), Sign("square_beats_white_box", 2)),
        attacks=("pgd", "square"),
        smoothing=SmoothingSpec(sigma=0.25, n0=100, n=1000, alpha=0.001),
    )
    error = Verdict(13, 1, -1, Status.ERROR, 0.5, reason="not finite\n\u2028\0")
    odd = replace(
        verdict(14, "b"),
        adversarial_distance=math.nextafter(0.1, 0),
        seconds=5e-324,
        certified_radius=math.inf,
        trail=(Step("a", Outcome.FAILED, 0.5, "why\n"), Step("pgd", Outcome.BROKEN, 0.5)),
    )
    return replace(
        one, verdicts=(*one.verdicts, error, odd), corrections=(CORRECTION,), n_adversarial=2
    )


def bits(one):
    """Return all of a verdict, its floats by their bits."""
    values = [getattr(one, part.name) for part in fields(one)]
    return [struct.pack("d", value) if isinstance(value, float) else value for value in values]


# The file ------------------------------------------------------------------------------------


def test_evidence_comes_back_from_parquet_bit_by_bit(tmp_path):
    path, one, other = tmp_path / "e.parquet", full(), evidence("other", "cb", eps=8 / 255)
    write_evidence(path, [one, other])
    read = read_evidence(path)
    assert list(read) == [one.sha256, other.sha256]
    for before, after in zip((one, other), read.values(), strict=True):
        assert list(map(bits, after.verdicts)) == list(map(bits, before.verdicts))
        empty = {"verdicts": (verdict(0, "u", eps=before.eps),)}
        flags = {"flags": tuple(sorted(before.flags))}
        assert replace(after, **empty) == replace(before, **empty, **flags)
        assert after.row() == before.row()


def test_some_of_the_evidence_of_a_file_is_read_alone(tmp_path):
    path, one, other = tmp_path / "e.parquet", full(), evidence("other", "cb", eps=8 / 255)
    write_evidence(path, [one, other])
    for wanted in (one, other):
        read = read_evidence(path, only={wanted.sha256, "0" * 64})
        assert list(read) == [wanted.sha256]
        assert list(map(bits, read[wanted.sha256].verdicts)) == list(map(bits, wanted.verdicts))
    assert read_evidence(path, only=set()) == {}


def test_the_same_evidence_gives_the_same_bytes(tmp_path):
    for name in "ab":
        write_evidence(tmp_path / name, [full(), evidence()])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_of_no_evidence_is_empty(tmp_path):
    write_evidence(tmp_path / "e.parquet", [])
    assert read_evidence(tmp_path / "e.parquet") == {}


def test_a_disk_that_refuses_leaves_the_old_evidence(tmp_path, monkeypatch):
    path = tmp_path / "e.parquet"
    write_evidence(path, [evidence()])
    before = path.read_bytes()

    def full_disk(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "write_table", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        write_evidence(path, [full()])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def rewritten(path, change_table=None, change_headers=None):
    """Write evidence, change the table or its headers, and write that."""
    write_evidence(path, [full(), evidence("other")])
    table = parquet.read_table(path)
    headers = json.loads(table.schema.metadata[HEADERS])
    if change_headers:
        headers = change_headers(headers)
    text = headers if isinstance(headers, str) else json.dumps(headers)
    table = table.replace_schema_metadata({HEADERS: text.encode()})
    parquet.write_table(change_table(table) if change_table else table, path)


def without(headers):
    return dict(list(headers.items())[1:])


def header_with(**changes):
    return lambda headers: {name: change(text, changes) for name, text in headers.items()}


def change(text, changes):
    return json.dumps(json.loads(text) | changes)


def spec_with(**changes):
    def changed(headers):
        found = {}
        for name, text in headers.items():
            content = json.loads(text)
            content["record"]["spec"] |= changes
            found[name] = json.dumps(content)
        return found

    return changed


def cell(name, value):
    """Return a change of a table: another value in the first row of a column."""

    def changed(table):
        values = table.column(name).to_pylist()
        kind = table.schema.field(name).type
        values[0] = value
        place = table.schema.get_field_index(name)
        return table.set_column(place, pa.field(name, kind), pa.array(values, kind))

    return changed


@pytest.mark.parametrize(
    ("table", "headers", "words"),
    [
        (lambda table: table.drop_columns(["trail"]), None, "trail"),
        (lambda table: table.rename_columns(["x", *table.column_names[1:]]), None, "evidence"),
        (lambda table: table.slice(0, 10), None, "lacks the verdicts of 1 of its rows"),
        (lambda table: table.replace_schema_metadata(None), None, "does not say"),
        (None, without, "no evidence"),
        (None, lambda headers: headers | {"0" * 64: "{}"}, "lacks the verdicts of 1"),
        (None, list, "no evidence"),
        (None, lambda _: "{", "no evidence"),
        (None, lambda _: "[" * 100_000, "no evidence"),
        (None, header_with(record={}), "spec"),
        (None, header_with(eps="wide"), "wide"),
        (None, header_with(eps=0.25), "must all be at its eps 0.25"),
        (None, header_with(eps=10**400), "no evidence"),
        (None, header_with(n_adversarial=math.inf), "no evidence"),
        (None, spec_with(attacks=[{"name": "pgd", "label": 5}]), "label of a stage"),
        (None, spec_with(certifiers=[{"name": [], "label": "a"}]), "name of a stage"),
        (None, spec_with(certifiers=5), "no evidence"),
        (None, header_with(signs=[["a"]]), "no evidence"),
        (None, header_with(corrections=[["x", "y", "z"]]), "no evidence"),
        (None, header_with(flags=5), "no evidence"),
        (cell("example_id", None), None, "example_id"),
        (cell("forward_passes", None), None, "forward_passes"),
        (cell("trail", None), None, "trail"),
        (cell("eps", None), None, "eps"),
        (cell("eps", 0.25), None, "must all be at its eps"),
        (cell("example_id", 6), None, "order of their examples"),
        (cell("status", "proved"), None, "proved"),
        (cell("certified_radius", 0.25), None, "does not carry the status"),
        (cell("trail", "[[1]]"), None, "no evidence"),
        (cell("trail", "["), None, "no evidence"),
    ],
)  # fmt: skip
def test_other_files_are_refused(table, headers, words, tmp_path):
    path = tmp_path / "e.parquet"
    rewritten(path)
    assert len(read_evidence(path)) == 2
    rewritten(path, table, headers)
    with pytest.raises(InputError) as caught:
        read_evidence(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is no evidence that dynbench leaderboard wrote: ")
    assert words in message
    assert "\n" not in message
    assert len(message) < 500


def doubled(table):
    return pa.concat_tables([table, table])


def test_verdicts_that_come_twice_are_refused(tmp_path):
    rewritten(tmp_path / "e.parquet", doubled)
    with pytest.raises(InputError, match="no evidence"):
        read_evidence(tmp_path / "e.parquet")


def test_a_doubled_header_cannot_pass_for_another(tmp_path):
    def twice(headers):
        (name, text), *rest = headers.items()
        pairs = [(name, text), (name, change(text, {"evaluated_at": "x"})), *rest]
        return "{" + ", ".join(f"{json.dumps(a)}: {json.dumps(b)}" for a, b in pairs) + "}"

    path = tmp_path / "e.parquet"
    rewritten(path, None, twice)
    read = read_evidence(path)
    assert full().sha256 not in read
    assert "x" in {one.evaluated_at for one in read.values()}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 100, bytes(range(256)) * 20])
def test_what_is_no_parquet_is_refused(content, tmp_path):
    path = tmp_path / "e.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_evidence(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["nowhere.parquet", "."])
def test_what_is_no_file_is_refused(path, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_evidence(tmp_path / path)


def test_a_file_cut_or_changed_anywhere_gives_no_other_evidence(tmp_path):
    path, one = tmp_path / "e.parquet", full()
    write_evidence(path, [one])
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        flipped = bytes([content[place] ^ 0x10])
        for damaged in (content[:place], content[:place] + flipped + content[place + 1 :]):
            path.write_bytes(damaged)
            try:
                read = read_evidence(path)
            except InputError:
                continue
            assert all(found.sha256 == name for name, found in read.items())
            if one.sha256 in read:
                assert list(map(bits, read[one.sha256].verdicts)) == list(map(bits, one.verdicts))


def repetitive(path, n):
    """Write a file of n verdicts with one long reason, which stands in it once; its stated size."""
    write_evidence(path, [evidence("m", "u")])
    table = parquet.read_table(path)
    place = table.schema.get_field_index("reason")
    table = table.set_column(place, "reason", pa.array(["x" * 10_000]))
    columns = [pa.concat_arrays([column.combine_chunks()] * n) for column in table.columns]
    table = pa.table(columns, table.column_names, metadata=table.schema.metadata)
    parquet.write_table(table, path)
    about = parquet.read_metadata(path)
    return sum(about.row_group(k).total_byte_size for k in range(about.num_row_groups))


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path, most = tmp_path / "e.parquet", 2**24
    monkeypatch.setattr(evidence_files, "_MOST_BYTES", most)
    # What the file says of its size is no guide.
    assert repetitive(path, 5_000) < 100_000
    with pytest.raises(InputError, match="unpacks to more than the 16,777,216 bytes"):
        read_evidence(path)
    repetitive(path, 100)
    with pytest.raises(InputError, match="order of their examples"):
        read_evidence(path)


def test_a_file_of_too_many_verdicts_is_refused(tmp_path, monkeypatch):
    write_evidence(tmp_path / "e.parquet", [evidence("m", "ccbu")])
    monkeypatch.setattr(evidence_files, "_MOST_ROWS", 3)
    with pytest.raises(InputError, match="has 4 verdicts, and at most 3 are read"):
        read_evidence(tmp_path / "e.parquet")
    monkeypatch.setattr(evidence_files, "_MOST_ROWS", 4)
    assert len(read_evidence(tmp_path / "e.parquet")) == 1


# The hash ------------------------------------------------------------------------------------

OTHER = {
    "example_id": 99,
    "label": 3,
    "prediction": 3,
    "status": Status.UNDECIDED,
    "eps": 0.25,
    "certified_radius": math.nextafter(math.inf, 0),
    "certifier": "ibp",
    "adversarial_distance": math.nextafter(0.1, 1),
    "attack": "fab",
    "forward_passes": 4,
    "backward_passes": 3,
    "seconds": 1e-323,
    "reason": "other",
    "x_adv": b"other",
    "next_stage": "pgd",
    "trail": (),
}


@pytest.mark.parametrize("name", [part.name for part in fields(Verdict)])
def test_the_hash_covers_each_field_of_a_verdict(name):
    one = full()
    last = one.verdicts[-1]
    changed = replace(last)
    # Some values alone would be no verdict.
    object.__setattr__(changed, name, OTHER[name])
    assert getattr(last, name) != OTHER[name]
    other = replace(one)
    object.__setattr__(other, "verdicts", (*one.verdicts[:-1], changed))
    assert other.sha256 != one.sha256


def test_the_hash_tells_a_missing_adversarial_example_from_an_empty_one():
    one = evidence("m", "b")
    hashes = {
        replace(one, verdicts=(replace(one.verdicts[0], x_adv=x_adv),)).sha256
        for x_adv in (None, b"", b"0")
    }
    assert len(hashes) == 3


CHANGES = {
    "eps": {"eps": 0.25, "verdicts": (verdict(0, "u", eps=0.25),)},
    "verdicts": {"verdicts": full().verdicts[:-1]},
    "flags": {"flags": ("keeps_state",)},
    "signs": {"signs": (Sign("zero_gradients", math.nextafter(1 / 3, 1)),)},
    "evaluated_at": {"evaluated_at": "2026-01-31T12:00:01+00:00"},
    "corrections": {"corrections": ()},
    "n_adversarial": {"n_adversarial": 3},
    "record": {"record": replace(full().record, suite="plus")},
}


def test_each_field_of_evidence_has_a_change():
    assert set(CHANGES) == {part.name for part in fields(Evidence)}


@pytest.mark.parametrize("name", CHANGES)
def test_the_hash_covers_each_field_of_evidence(name):
    assert replace(full(), **CHANGES[name]).sha256 != full().sha256


@pytest.mark.parametrize("place", range(3))
def test_the_hash_covers_each_part_of_a_correction(place):
    other = CORRECTION._replace(**{Correction._fields[place]: [4, "x", "y"][place]})
    assert replace(full(), corrections=(other,)).sha256 != full().sha256


OF_SPEC = {
    "smoothing": SmoothingSpec(sigma=0.5, n0=100, n=1000, alpha=0.001),
    "attacks": (StageSpec(name="pgd", label="pgd", settings={"n_steps": 3}),),
    "attacks_if_random": (),
    "certifiers": (StageSpec(name="lipschitz", label="lipschitz", version=2),),
    "seed": 1,
    "batch_size": 8,
    "audit_share": 0.5,
}


@pytest.mark.parametrize("name", [part.name for part in fields(EvaluationSpec)])
def test_the_hash_covers_each_field_of_the_spec(name):
    one = full()
    spec = replace(one.record.spec, **{name: OF_SPEC.get(name, "other")})
    assert replace(one, record=replace(one.record, spec=spec)).sha256 != one.sha256


def test_the_hash_is_that_of_numbers_whatever_their_type(tmp_path):
    whole = evidence("m", "ccb", eps=1.0, signs=(Sign("square_beats_white_box", 2),))
    whole = replace(whole, eps=1)
    write_evidence(tmp_path / "e.parquet", [whole])
    assert list(read_evidence(tmp_path / "e.parquet")) == [whole.sha256]


def test_a_header_reads_back():
    one = full()
    read = Evidence(**read_header(one.header()), verdicts=one.verdicts)
    assert read == replace(one, flags=tuple(sorted(one.flags)))


# The sample ----------------------------------------------------------------------------------


def test_the_sample_is_of_broken_examples_that_the_key_chooses():
    one = evidence("m", "cb" * 40 + "um")
    samples = {tuple(evidence(f"m{k}", "cb" * 40 + "um").sampled()) for k in range(5)}
    assert len(samples) == 5
    for sample in (one.sampled(), *samples):
        assert len(sample) == 10
        assert list(sample) == sorted(set(sample))
        assert all(example % 2 for example in sample)
    # More runs of the same evaluation, its flags and its time do not change it.
    assert replace(one, evaluated_at="x", flags=("keeps_state",)).sampled() == one.sampled()
    assert evidence("m", "cb" * 40 + "um", eps=0.25).sampled() != one.sampled()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10])
def test_a_smaller_sample_is_part_of_a_larger_one(n):
    one = replace(evidence("m", "bbb"), n_adversarial=n)
    assert len(one.sampled()) == min(n, 3)
    assert set(one.sampled()) <= set(evidence("m", "bbb").sampled())


def test_corrected_examples_are_in_the_sample():
    one = replace(evidence("m", "b" * 30 + "c"), n_adversarial=0)
    corrections = (CORRECTION, CORRECTION._replace(example_id=30))
    # Example 30 is not broken, and has no adversarial example to keep.
    assert replace(one, corrections=corrections).sampled() == [3]


def test_only_the_sample_keeps_its_adversarial_examples():
    one = evidence("m", "b" * 30)
    kept = one.with_sample()
    assert one.sampled() == kept.sampled()
    assert [v.example_id for v in kept.verdicts if v.x_adv is not None] == one.sampled()
    assert kept.with_sample() is not kept
    assert kept.with_sample().sha256 == kept.sha256 != one.sha256
    assert {k: v for k, v in kept.row().items() if k != "evidence_sha256"} == {
        k: v for k, v in one.row().items() if k != "evidence_sha256"
    }


# Refusals and rows ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verdicts": ()}, "without a verdict"),
        ({"verdicts": (verdict(1, "c"), verdict(0, "c"))}, "order of their examples"),
        ({"verdicts": (verdict(1, "c"), verdict(1, "c"))}, "order of their examples"),
        ({"verdicts": (verdict(0, "c", eps=0.25),)}, "at its eps 0.5"),
        ({"eps": 0.25}, "at its eps 0.25"),
        ({"verdicts": (replace(verdict(0, "c"), next_stage="pgd"),)}, "waits for a stage"),
    ],
)
def test_verdicts_of_no_finished_run_are_refused(changes, words):
    one = evidence("m", "cb")
    assert replace(one) == one
    with pytest.raises(InputError, match=words):
        replace(one, **changes)


def test_a_row_names_its_evidence_and_its_corrections():
    row = full().row()
    assert row["evidence_sha256"] == full().sha256
    assert row["corrections"] == "example 3 by https://example.org/a;b (2026-02-01)"
    assert evidence().row()["corrections"] == ""


def test_a_field_that_a_later_version_adds_leaves_the_hash_as_it_is():
    """A record with another field at its default is the same evidence; with a value, it is not."""

    @dataclass(frozen=True, kw_only=True)
    class Later(Record):
        more: str = ""

    one = evidence()
    facts = {part.name: getattr(one.record, part.name) for part in fields(Record)}
    assert replace(one, record=Later(**facts)).sha256 == one.sha256
    assert replace(one, record=Later(**facts, more="x")).sha256 != one.sha256


def test_the_hash_covers_each_verdict_as_json_without_its_defaults():
    one = full()
    of_two = (replace(one.verdicts[0], seconds=1), replace(one.verdicts[1], seconds=1.0))
    odd = replace(one.verdicts[2], reason='a, "b"', seconds=-0.0, attack="é")
    one = replace(one, verdicts=(*of_two, odd, *one.verdicts[3:]))
    content = hashlib.sha256(one.header().encode())
    for each in one.verdicts:
        values = {}
        for part in fields(Verdict):
            value = getattr(each, part.name)
            if part.name not in ("trail", "x_adv") and value != part.default:
                values[part.name] = value
        if each.trail:
            values["trail"] = [step.values() for step in each.trail]
        if each.x_adv is not None:
            values["x_adv"] = hashlib.sha256(each.x_adv).hexdigest()
        content.update(json.dumps(values).encode())
    assert one.sha256 == content.hexdigest()
