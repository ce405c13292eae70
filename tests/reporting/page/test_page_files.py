"""The files of a site: what they say, what they may load, and the folder that holds them."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from oracles.evidence import evidence
from oracles.hostile_names import HOSTILE, IMAGE, SCRIPT, TEMPLATE
from PIL import Image

from robustbench_dyn.datasets import load_dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.reporting.page import write_page
from robustbench_dyn.reporting.page.cards import address
from robustbench_dyn.reporting.page.document import page_names
from robustbench_dyn.reporting.page.histograms import histogram
from robustbench_dyn.reporting.page.pictures import finder, pictures, png
from robustbench_dyn.reporting.page.site import MARKER, POLICY
from robustbench_dyn.reporting.properties import Findings
from robustbench_dyn.reporting.published import entry_of


class Read(HTMLParser):
    """The elements of a page with their attributes, its texts, and the JSON that it carries."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self._inside = [], [], ""
        self.embedded = None
        self.feed(html)
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self._inside == "script":
            self.embedded = json.loads(data) if data.strip() else self.embedded
        elif data.strip():
            self.texts.append(data.strip())

    def handle_endtag(self, tag):
        self._inside = ""

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def links(self):
        return [a["href"] for a in self.of("a") if "href" in a]

    def rows(self):
        return [json.loads(row["data-row"]) for row in self.of("tr") if "data-row" in row]


def read(path):
    return Read(path.read_text(encoding="utf-8"))


def pages(site):
    return sorted(site.rglob("*.html"))


def decoded(source):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_each_table_shows_percents_ranks_and_what_keeps_rows_apart(site, entries):
    page = read(site / "index.html")
    row = entries[0].row
    assert f"{100 * row['certified_accuracy']:.1f}" in page.texts
    assert "cifar10" in page.text and "Linf, eps 8/255" in page.text
    assert "On other images" in page.text and "60 images, 0 to 59" in page.text
    assert "Not ranked" in page.text and "batch coupled" in page.texts
    assert "logits depend on the other examples of the batch." in page.texts
    assert "mean of 3 seeds (least–most)" in page.texts


def test_every_row_is_in_a_table_and_every_model_has_a_page(site, entries):
    page = read(site / "index.html")
    rows = page.rows()
    assert sorted({row["model"] for row in rows}) == sorted({e.row["model"] for e in entries})
    # The third model has three seeds in each of the three tables.
    assert len(rows) == len(entries) - 6
    links = {link for link in page.links() if link.startswith("models/")}
    assert all((site / link).is_file() for link in links)
    assert len(links) == 6


def test_the_page_of_a_model_tells_its_card_and_measured_defects(site, entries):
    page = read(site / "models/lipflow.html")
    for expected in (
        "x ↦ x − 2 W relu(Wᵀ x + b), with Wᵀ W = I",
        "nonexpansive",
        "invertible",
        "0.25",
        entries[0].row["weights_sha256"],
        entries[0].row["evidence_sha256"],
        "0" * 64,
    ):
        assert expected in page.text, expected
    assert "https://arxiv.org/abs/2210.02373" in page.links()


def test_flags_stand_with_their_values_in_each_table(site):
    page = read(site / "models/hamiltonian.html")
    assert "batch coupled" in page.texts and "all tables" in page.texts
    (places,) = [text for text in page.texts if text.startswith("cifar10, Linf, eps 8/255: ")]
    assert re.fullmatch(r"([a-z0-9_]+, L\w+, eps [\d./]+: \d+(; )?){3}", places)


def test_a_model_without_a_card_has_a_page_that_says_so(hostile_site):
    page = read(hostile_site / "models/b.html")
    assert "No plugin in use has a card for this model." in page.text


@pytest.mark.parametrize("name", ["index.html", "curves.html", "compare.html", "models/mine.html"])
def test_hostile_texts_stay_text(hostile_site, name):
    page = read(hostile_site / name)
    kinds = {attributes.get("src", attributes.get("type")) for attributes in page.of("script")}
    root = "../" if "/" in name else ""
    allowed = {f"{root}static/theme.js", f"{root}static/site.js", "application/json"}
    assert kinds <= allowed
    assert all(image["src"].startswith("data:") for image in page.of("img"))
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert "42" not in page.texts
    assert all(not link.startswith("javascript") for link in page.links())


def test_hostile_texts_are_shown_as_they_are(hostile_site):
    index, mine = read(hostile_site / "index.html"), read(hostile_site / "models/mine.html")
    rows = index.rows()
    assert sorted(row["family"] for row in rows) == sorted(HOSTILE)
    assert {row["suite"] for row in rows} == {TEMPLATE}
    assert rows[0]["attacks"] == [IMAGE, TEMPLATE]
    assert all(text in index.text for text in HOSTILE)
    assert SCRIPT in mine.text and TEMPLATE in mine.text and IMAGE in mine.text
    assert read(hostile_site / "compare.html").embedded[0]["suite"] == TEMPLATE


def test_pages_load_their_own_files_alone(site):
    for path in pages(site):
        page = read(path)
        elements = [e for kind in ("script", "link", "img") for e in page.of(kind)]
        loaded = [element.get("src") or element.get("href") for element in elements]
        assert [one for one in loaded if one and re.match(r"(https?:)?//", one)] == []
        policies = [m["content"] for m in page.of("meta") if "http-equiv" in m]
        assert policies == [POLICY]
        assert all("style" not in attributes for _, attributes in page.elements)
    assert "connect-src 'none'" in POLICY and "http" not in POLICY


def test_shipped_scripts_name_no_place_to_load_from(site):
    script = (site / "static/site.js").read_text(encoding="utf-8")
    assert not re.findall(r"\bfetch\(|XMLHttpRequest|\bimport\(|sendBeacon|WebSocket", script)
    found = set(re.findall(r"https?://[\w.]+", script))
    # Names of XML vocabularies, which are not loaded.
    assert found <= {"http://www.w3.org"}


def test_pictures_show_image_adversarial_version_and_difference(entries):
    evidence = entries[0].evidence
    ((_, (first, *_)),) = pictures([("a table", evidence)], finder())
    assert list(first["images"]) == ["original", "adversarial", "difference"]
    x = load_dataset("fashion_mnist").x[first["id"]].numpy()
    assert np.array_equal(decoded(first["images"]["original"]), np.rint(x[0] * 255))
    verdict = next(v for v in evidence.verdicts if v.example_id == first["id"])
    x_adv = np.frombuffer(verdict.x_adv, np.float32).reshape(28, 28)
    assert np.array_equal(decoded(first["images"]["adversarial"]), np.rint(x_adv * 255))
    difference = decoded(first["images"]["difference"])
    k = np.unravel_index(np.abs(x_adv - x[0]).argmax(), x_adv.shape)
    assert difference[k] == (255 if x_adv[k] > x[0][k] else 0)


def test_pictures_of_data_with_another_hash_stand_alone(entries):
    ((_, several),) = pictures([("a table", entries[0].evidence)], lambda *_: None)
    assert {tuple(one["images"]) for one in several} == {("adversarial",)}
    assert finder()("fashion_mnist", "0" * 64, 0) is None


def test_pictures_keep_to_their_budget(entries):
    of = [(entry.row["norm"], entry.evidence) for entry in entries[:2]]
    full, few = pictures(of, finder()), pictures(of, finder(), budget=9000)
    size = sum(len(s) for _, several in few for one in several for s in one["images"].values())
    assert 0 < size <= 9000
    # One of each table comes before a second of any.
    assert len(few) == len(full) == 2


def test_pngs_of_one_and_three_channels_keep_their_pixels():
    x = np.random.default_rng(0).integers(0, 256, (3, 5, 4)).astype(np.float32) / np.float32(255)
    assert np.array_equal(decoded(png(x)), np.rint(x * 255).transpose(1, 2, 0))
    assert np.array_equal(decoded(png(x[:1])), np.rint(x[0] * 255))


def test_histograms_count_every_radius_and_distance():
    one = evidence(statuses="ccccbbbum")
    counted = histogram(one)
    assert sum(counted["certified"]) == 4
    assert sum(counted["adversarial"]) == 3
    assert histogram(evidence(statuses="mm", attacks=())) is None


def test_sources_become_links_only_where_they_are_addresses():
    assert address("arXiv 2210.02373") == "https://arxiv.org/abs/2210.02373"
    assert address("https://example.org/a") == "https://example.org/a"
    for text in ("javascript:alert(1)", "a book", "https://a b", 'https://a"onclick="x'):
        assert address(text) == ""


def test_models_whose_names_differ_in_case_have_pages_of_their_own():
    names = page_names(["a/b", "A/b", "a_b"])
    assert len({name.casefold() for name in names.values()}) == 3
    assert names["a_b"] == "a_b.html"


def rows(model="m", statuses="ccbu"):
    entry = entry_of(evidence(model, statuses), "a row")
    return [entry._replace(row=entry.row | {"open_flags": "", "certified_rank": 1})]


def test_a_second_site_replaces_the_first_as_a_whole(tmp_path):
    write_page(rows("old"), Findings(), tmp_path / "site")
    written = write_page(rows("new"), Findings(), tmp_path / "site")
    there = {path for path in (tmp_path / "site").rglob("*") if path.is_file()}
    assert there == {*written, tmp_path / "site" / MARKER}
    assert not (tmp_path / "site/models/old.html").exists()


def test_a_folder_with_files_of_others_is_refused_and_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt, which is no file of a page"):
        write_page(rows(), Findings(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_site_with_a_file_that_was_added_is_refused(tmp_path):
    site = tmp_path / "site"
    write_page(rows("old"), Findings(), site)
    (site / "models/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds models/notes\.txt"):
        write_page(rows("new"), Findings(), site)
    assert (site / "models/old.html").is_file()


def test_a_site_may_not_hold_the_tables(tmp_path):
    for site in (tmp_path, tmp_path / "leaderboards"):
        with pytest.raises(InputError, match="the folder of the tables"):
            write_page(rows(), Findings(), site, tables=tmp_path / "leaderboards")


def test_an_empty_folder_becomes_a_site(tmp_path):
    (tmp_path / "site").mkdir()
    assert tmp_path / "site/index.html" in write_page(rows(), Findings(), tmp_path / "site")


def test_a_site_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="no row"):
        write_page([], Findings(), tmp_path / "site")


def test_tables_are_copied_for_download(tmp_path):
    tables = tmp_path / "leaderboards"
    tables.mkdir()
    (tables / "digits-L2-0.5.csv").write_text("a,b\n")
    (tables / "digits-L2-0.5.parquet").write_bytes(b"PAR1")
    write_page(rows(), Findings(), tmp_path / "site", tables=tables)
    links = [a["href"] for a in read(tmp_path / "site/index.html").of("a") if "download" in a]
    assert links == ["downloads/digits-L2-0.5.csv", "downloads/digits-L2-0.5.parquet"]
    assert (tmp_path / "site" / links[1]).read_bytes() == b"PAR1"


def test_equal_rows_make_equal_sites(tmp_path):
    for name in ("one", "two"):
        write_page(rows(), Findings(), tmp_path / name)
    one, two = ((tmp_path / name).rglob("*.*") for name in ("one", "two"))
    for a, b in zip(sorted(one), sorted(two), strict=True):
        assert a.read_bytes() == b.read_bytes(), a
