"""Natural domains: planted variances, labels that are missing or confounded, and what is said."""

import io

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose
from PIL import Image
from synthetic_tables import SyntheticTables

from analyses import natural_domains
from statsnorm import figures
from statsnorm.cli import main
from statsnorm.decisions import load_plan
from statsnorm.errors import StatsnormError
from statsnorm.removal.labels import CROSSED, NESTED, domain_labels
from statsnorm.removal.ratios import interval
from statsnorm.removal.retrieval import moment_rows, own_nearest
from statsnorm.report.encode import parquet_bytes, read_parquet

PLAN = load_plan()
TAPS = (
    ("a.norm", "next_pre_norm", 2, "cin26", "input"),
    ("b.norm", "next_pre_norm", 4, "cin26", "input"),
    ("relu3_1", "vgg_of_output", 5, "vgg16", "cin26"),
    ("relu4_2", "vgg_of_output", 7, "vgg16", "cin26"),
)


def labelled(rng, domains, classes, images):
    """Images in cells of 2 to 2 * `images` - 2; `classes` of 0 leaves classes out."""
    counts = rng.integers(2, 2 * images - 1, size=(max(classes, 1), domains))
    c, d = np.indices(counts.shape)
    c, d = np.repeat(c.ravel(), counts.ravel()), np.repeat(d.ravel(), counts.ravel())
    table = pd.DataFrame({"image": [f"{i:04d}.jpg" for i in range(len(c))]})
    table["domain"] = [f"d{k:02d}" for k in d]
    if classes:
        table["class"] = [f"c{k:02d}" for k in c]
    return table, c, d


def planted(rng, *, domains=9, classes=8, images=3, keep=(0.2, 0.8, 0.8), channels=8, random=0):
    """Tables in which V_domain, V_class and the images' own variance are kept at `keep`."""
    table, c, d = labelled(rng, domains, classes, images)
    tables = SyntheticTables(attributes=table)
    for seed in (-1, *range(random)):
        who = {"norm": "cin", "index": "0", "seed": seed, "iteration": 0 if seed >= 0 else -1}
        for tap, kind, depth, network, source in TAPS:
            b = rng.normal(size=(domains, channels))[d]
            a = rng.normal(size=(max(classes, 1), channels))[c] * (classes > 0)
            both = rng.normal(size=(domains * max(classes, 1), channels))[c * domains + d]
            both *= 0.5 * (classes > 0)
            e, new = rng.normal(size=(2, len(c), channels))
            noise = {
                "frozen:prefix": e,
                "none": e if keep == (1, 1, 1) else 0.9 * e + 0.19**0.5 * new,
            }
            for treatment, (ks, kc, ke) in (("frozen:prefix", (1, 1, 1)), ("none", keep)):
                y = 0.3 * (
                    np.sqrt(ks) * b + np.sqrt(kc) * (a + both) + np.sqrt(ke) * noise[treatment]
                )
                scale = np.sqrt(np.exp(2 * y).mean(axis=0))
                keys = {"tap": tap, "tap_kind": kind, "depth": depth, "treatment": treatment}
                tables.add(
                    {**who, **keys, "network": network, "source": source},
                    {"image": table["image"].tolist()},
                    y * scale,  # so that m = v
                    np.exp(2 * y),
                )
    return tables


def report(tables):
    frames = natural_domains.summarise(tables)
    stored = {n: read_parquet(parquet_bytes(f), n) for n, f in frames.items()}
    return natural_domains.run(stored, PLAN, np.random.default_rng(0))


@pytest.fixture(scope="module")
def crossed():
    return report(planted(np.random.default_rng(5), random=3))


def at(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    return table


MEAN = "mean over next_pre_norm"


def test_components_have_the_degrees_of_freedom_of_heavy_tails():
    frames = natural_domains.summarise(planted(np.random.default_rng(8)))
    table = natural_domains.run(frames, PLAN, np.random.default_rng(0)).tables["components"]
    where = {"tap": "a.norm", "treatment": "none", "moment": "v"}
    row = at(table, **where, factor="domain").iloc[0]
    parts = at(frames["replicates"], **where).set_index("component")["values"]
    values = np.asarray(parts["style"], float)
    groups = tuple(int(frames["designs"].iloc[0][name]) for name in ("classes", "domains"))
    expected = interval(values, groups, confidence=0.95, tails="heavy")
    assert_allclose([row["low"], row["high"]], [expected.low, expected.high])
    share = interval(values / np.sum([*parts], axis=0), groups, confidence=0.95, tails="heavy")
    assert_allclose([row["share_low"], row["share_high"]], [share.low, share.high])


def test_planted_fractions_are_recovered_by_both_intervals(crossed):
    rows = at(crossed.tables["removed"], place=MEAN, moment="v").set_index("factor")
    for factor, truth in (("domain", 0.8), ("class", 0.2), ("images of a cell", 0.2)):
        row = rows.loc[factor]
        assert row["low"] < truth < row["high"], factor
        assert row["within_low"] < truth < row["within_high"], factor
        assert row["untrained_networks"] == 3
    assert crossed.headline == crossed.findings[0]
    assert " in 3 untrained)" in crossed.headline
    psi = at(crossed.tables["selectivity"], place=MEAN, moment="v").iloc[0]
    assert psi["low"] < np.log(0.2 / 0.8) < psi["high"]
    assert_allclose(psi["estimate"], np.log(0.25), atol=0.3)


def test_planted_claims_are_supported_and_exploratory(crossed):
    assert {c.hypothesis: c.verdict for c in crossed.claims} == {
        "N1": "supported",
        "N2": "supported",
    }
    assert all(c.family == "" for c in crossed.claims)
    assert "9 domains x 8 classes" in crossed.claims[0].scope
    assert set(crossed.effects["hypothesis"]) == {"N1", "N2"}


def test_reml_agrees_with_analysis_of_variance(crossed):
    table = crossed.tables["reml"]
    free = table[~table["at_bound"]]
    assert len(free) >= 8
    total = free.groupby(["treatment", "channel"])["reml"].transform("sum")
    assert ((free["anova"] - free["reml"]).abs() / total).max() < 0.25
    assert np.corrcoef(free["anova"], free["reml"])[0, 1] > 0.97


def test_retrieval_stands_beside_with_its_chance(crossed):
    row = crossed.tables["retrieval"].iloc[0]
    assert_allclose(row["chance"], 1 / row["images"])
    assert row["low"] <= row["estimate"] <= row["high"]
    tables = planted(np.random.default_rng(5), random=3)
    found = {
        r["treatment"]: moment_rows(mean, var)
        for r, _, mean, var in tables.blocks
        if r["tap"] == "relu4_2" and r["seed"] == -1
    }
    at_work_against_frozen = own_nearest(found["none"], found["frozen:prefix"]).mean()
    assert at_work_against_frozen != own_nearest(found["frozen:prefix"], found["none"]).mean()
    assert_allclose(row["estimate"], at_work_against_frozen)
    assert any("nearest to their own frozen version" in text for text in crossed.findings)


def test_figures_are_drawn(crossed):
    assert [f.name for f in crossed.figures] == ["removed_by_depth"]
    for figure in crossed.figures:
        drawn = getattr(figures, figure.draw)(crossed.tables[figure.table], **figure.options)
        drawn.savefig(io.BytesIO(), format="png")
        assert "images" in figure.caption


def test_without_classes_images_lie_in_domains():
    tables = planted(np.random.default_rng(6), domains=12, classes=0, images=12, keep=(0.3, 1, 0.9))
    found = report(tables)
    rows = at(found.tables["removed"], place=MEAN, moment="m").set_index("factor")
    assert set(rows.index) == {"domain", "images of a domain"}
    for factor, truth in (("domain", 0.7), ("images of a domain", 0.1)):
        assert rows.loc[factor, "low"] < truth < rows.loc[factor, "high"]
        assert rows.loc[factor, "within_low"] < truth < rows.loc[factor, "within_high"]
    assert "images in 12 domains" in found.scope["natural domains"]


def test_few_domains_are_not_testable_but_described():
    found = report(planted(np.random.default_rng(7), domains=2, classes=0, images=30))
    assert {c.verdict for c in found.claims} == {"not testable"}
    assert all("2 domains < 8" in c.sentence for c in found.claims)
    row = at(found.tables["removed"], place=MEAN, moment="v", factor="domain").iloc[0]
    assert np.isfinite([row["estimate"], row["within_low"], row["within_high"]]).all()
    assert np.isnan([row["low"], row["high"]]).all()
    assert any("for domains at large" in text for text in found.limitations)
    few = report(planted(np.random.default_rng(8), domains=9, classes=4, images=6))
    assert all("4 classes < 8" in c.sentence for c in few.claims)


def test_an_identical_network_removes_nothing():
    found = report(planted(np.random.default_rng(9), keep=(1, 1, 1)))
    rows = found.tables["removed"]
    for column in ("estimate", "low", "high", "within_low", "within_high"):
        assert_allclose(rows[column], 0, atol=1e-9)
    assert {c.verdict for c in found.claims} == {"contradicted"}


def test_missing_labels_and_lonely_images_are_left_out_and_counted():
    tables = planted(np.random.default_rng(10))
    table = tables.attributes
    table.loc[[0, 5], "domain"] = ""
    table.loc[7, "class"] = ""
    table.loc[11, ["domain", "class"]] = ["d00", "alone"]
    found = report(tables)
    assert "3 images without a domain or class" in found.left_out
    assert any(text.endswith("images alone in a cell") for text in found.left_out)
    counts = found.tables["cells"]
    assert counts["images"].min() >= 2
    assert "alone" not in set(counts["class"])


def test_classes_and_domains_that_are_not_crossed_are_no_units():
    cells = [("d0", "x"), ("d0", "y"), ("d1", "x"), ("d1", "y"), ("d0", "only"), ("d2", "x")]
    table = pd.DataFrame([(d, c) for d, c in cells for _ in range(3)], columns=["domain", "class"])
    table["image"] = [f"{i:02d}.jpg" for i in range(len(table))]
    found = domain_labels(table, 2)
    assert found.design == CROSSED
    assert (set(found.table["class"]), set(found.table["domain"])) == ({"x", "y"}, {"d0", "d1"})
    assert (len(found.table), found.apart, found.lonely) == (12, 6, 0)


def test_images_of_a_class_in_one_domain_are_counted_as_left_out():
    tables = planted(np.random.default_rng(12))
    table = tables.attributes
    table.loc[table.index[table["domain"] == "d00"][:3], "class"] = "only"
    found = report(tables)
    assert "only" not in set(found.tables["cells"]["class"])
    assert any("3 images of classes or domains that are not crossed" in x for x in found.left_out)


def test_one_class_in_every_domain_is_refused():
    images = [f"{i}.jpg" for i in range(12)]
    table = pd.DataFrame({"image": images, "domain": list("aaaabbbbcccc")})
    table["class"] = ["dog"] * 4 + ["cat"] * 4 + ["owl"] * 4
    words = r"confounded.*a: dog; b: cat; c: owl.*leave the column `class` out"
    with pytest.raises(StatsnormError, match=words):
        domain_labels(table, 2)
    assert domain_labels(table.drop(columns="class"), 2).design == NESTED
    table["class"] = "dog"  # one class throughout is no factor
    assert domain_labels(table, 2).design == NESTED
    table["class"] = list("xxyyxxyyxxyy")
    assert domain_labels(table, 2).design == CROSSED


def test_labels_that_say_nothing():
    table = pd.DataFrame({"image": ["a", "b", "c", "d"]})
    assert domain_labels(table, 2) is None
    assert domain_labels(table.assign(domain=""), 2) is None
    with pytest.raises(StatsnormError, match="two domains with 2 images in a cell, got x"):
        domain_labels(table.assign(domain=list("xxxy")), 2)
    twice = pd.DataFrame({"image": ["a", "a", "b", "c"], "domain": list("xyxy")})
    with pytest.raises(StatsnormError, match="'a' has two domains"):
        domain_labels(twice, 2)


def test_one_file_under_two_names_is_refused():
    table = pd.DataFrame({"image": list("abcd"), "domain": list("xxyy"), "sha256": list("1231")})
    with pytest.raises(StatsnormError, match="'a' and 'd' are one file"):
        domain_labels(table, 2)
    assert domain_labels(table.assign(sha256=list("1234")), 2) is not None


@pytest.mark.parametrize("change", ["twice", "size"])
def test_rows_twice_or_of_two_sizes_are_refused(change):
    tables = planted(np.random.default_rng(30), domains=9, classes=8, images=2, channels=4)
    read = tables.moments

    def bent(**where):
        keys, mean, var = read(**where)
        if change == "twice":
            return pd.concat([keys, keys]), np.concatenate([mean, mean]), np.concatenate([var, var])
        sizes = np.where(np.arange(len(keys)) == 0, 256, keys["pixels"])
        return keys.assign(pixels=sizes), mean, var

    tables.moments = bent
    with pytest.raises(StatsnormError, match="twice, or in several sizes"):
        natural_domains.summarise(tables)


def test_a_labelled_image_without_rows_is_named():
    tables = planted(np.random.default_rng(11))
    extra = pd.DataFrame({"image": ["z.jpg"], "domain": ["d00"], "class": ["c00"]})
    tables.attributes = pd.concat([tables.attributes, extra], ignore_index=True)
    with pytest.raises(StatsnormError, match=r"first 'z\.jpg'"):
        natural_domains.summarise(tables)


def manifest(folder, cells, each):
    """Smooth images whose contrast hangs on the domain and colour on the class; a CSV."""
    rng = np.random.default_rng(12)
    lines = ["image,domain,class"]
    for domain, label in cells:
        for number in range(each):
            x = 128 + 90 / (1 + domain) * rng.normal(size=(4, 4, 3)) + 25 * label * np.eye(3)[0]
            name = f"{domain}-{label}-{number}.png"
            coarse = Image.fromarray(x.clip(0, 255).astype(np.uint8))
            coarse.resize((16, 16), Image.Resampling.BICUBIC).save(folder / name)
            lines.append(f"{name},domain{domain},class{label}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder / "manifest.csv"


def cli(*arguments):
    words = [str(a) for a in arguments]
    return CliRunner().invoke(main, words, prog_name="statsnorm", catch_exceptions=False)


def extracted(folder, source):
    given = ("--network", "tiny_networks:instance_norm", "--size", "16", "--device", "cpu")
    frozen = ("--treatment", "none,frozen:prefix", "--reference", "embedded")
    ran = cli("extract", "--images", source, *given, *frozen, "--out", folder / "run")
    assert ran.exit_code == 0, ran.output
    out = folder / "report"
    return cli("report", folder / "run", "--analysis", "natural_domains", "--out", out), out


def test_from_a_manifest_to_a_report(tmp_path):
    cells = [(d, c) for d in range(3) for c in range(3)]
    ran, out = extracted(tmp_path, manifest(tmp_path, cells, 3))
    assert ran.exit_code == 0, ran.output
    table = pd.read_csv(out / "tables" / "natural_domains.removed.csv")
    assert set(table["factor"]) == {"domain", "class", "domain x class", "images of a cell"}
    assert {MEAN, "VGG of output relu3_1"} <= set(table["place"])
    claims = pd.read_csv(out / "tables" / "claims.csv")
    assert claims["verdict"].tolist() == ["not testable"] * 2
    assert "3 domains < 8; 3 classes < 8" in claims["sentence"].iloc[0]
    shares = pd.read_csv(out / "tables" / "natural_domains.retrieval.csv")
    assert shares[["tap", "images"]].to_numpy().tolist() == [["relu4_2", 27]]
    assert cli("verify", out).exit_code == 0


def test_confounded_labels_are_refused_in_the_report(tmp_path):
    ran, out = extracted(tmp_path, manifest(tmp_path, [(0, 0), (1, 1), (2, 2)], 2))
    assert ran.exit_code == 1
    assert "natural_domains: domain and class are confounded" in ran.output
    assert "domain and class are confounded" in (out / "report.md").read_text()


def test_no_fraction_where_domains_do_not_vary_before():
    tables = planted(np.random.default_rng(13))
    for row, _, mean, var in tables.blocks:
        if row["tap"] == "b.norm" and row["treatment"] == "frozen:prefix":
            table = tables.attributes
            gap = 0.5 * np.log(var)
            centre = table.assign(row=range(len(table))).groupby(["domain"])["row"]
            for _, rows in centre:  # the same mean in every domain: V_domain is below 0
                gap[rows.to_numpy()] -= gap[rows.to_numpy()].mean(axis=0)
            var[:], mean[:] = np.exp(2 * gap), gap
    found = report(tables)
    assert {c.verdict for c in found.claims} == {"not interpretable"}
    assert "not above 0 before, at a tap of mean over next_pre_norm" in found.claims[0].sentence
    assert any("no fraction of domain" in text for text in found.findings)


def test_a_ratio_of_remainders_is_not_interpretable():
    found = report(planted(np.random.default_rng(14), keep=(0.004, 0.02, 0.5)))
    assert {c.hypothesis: c.verdict for c in found.claims} == {
        "N1": "supported",
        "N2": "not interpretable",
    }


def test_the_share_of_domains_stands_with_its_interval():
    class Net:
        label, counts = "vgg16", "177 images in 8 domains"
        row = {"net": "vgg16"}  # noqa: RUF012

    shares = {"share": 0.04, "share_low": -0.19, "share_high": 0.26}
    row = {"net": "vgg16", "treatment": "none", "moment": "v", "factor": "domain", "tap": "input"}
    table = pd.DataFrame([{**row, **shares, "depth": 0}])
    (text,) = natural_domains._composition_words(Net(), table)
    assert "V_domain is 4 % (-19 to 26) at input" in text
