"""The bill of materials: what a host says, put together, is CycloneDX that its own reader takes back."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from cyclonedx.model.bom import Bom
from hypothesis import given, settings
from hypothesis import strategies as st
from packageurl import PackageURL

from deploy.errors import FleetError
from deploy.procedures.sbom import SCRIPT, UNKNOWN, Content, Package, bom, parse, rendered

SAID = """\
os\tdebian\t12
package\tii \tredis-server\t5:7.0.15-1~deb12u10\tamd64\tredis\t5:7.0.15-1~deb12u10
package\tii \tlibc6:amd64\t2.36-9\tamd64\tglibc\t2.36-9
package\thi \tlocal-tool\t1.0\tall\tlocal-tool\t1.0
package\trc \tgone\t1.0\tall\tgone\t1.0
sources\tPackage files:
sources\t 100 /var/lib/dpkg/status
sources\t     release a=now
sources\t 500 https://deb.example.org/security bookworm-security/main amd64 Packages
sources\t     release v=12,o=Debian,a=stable-security,n=bookworm-security,l=Debian-Security,c=main,b=amd64
sources\t     origin deb.example.org
sources\t 500 https://deb.example.org/debian bookworm/main amd64 Packages
sources\t     release v=12.1,o=Debian,a=stable,n=bookworm,l=Debian,c=main,b=amd64
policy\tredis-server:
policy\t  Installed: 5:7.0.15-1~deb12u10
policy\t  Candidate: 5:7.0.15-1~deb12u10
policy\t  Version table:
policy\t *** 5:7.0.15-1~deb12u10 500
policy\t        500 https://deb.example.org/security bookworm-security/main amd64 Packages
policy\t        100 /var/lib/dpkg/status
policy\t     5:7.0.15-1~deb12u7 500
policy\t        500 https://deb.example.org/debian bookworm/main amd64 Packages
policy\tlibc6:
policy\t  Version table:
policy\t     2.36-10 500
policy\t        500 https://deb.example.org/security bookworm-security/main amd64 Packages
policy\t *** 2.36-9 500
policy\t        500 https://deb.example.org/debian bookworm/main amd64 Packages
policy\t        100 /var/lib/dpkg/status
policy\tlocal-tool:
policy\t  Version table:
policy\t *** 1.0 100
policy\t        100 /var/lib/dpkg/status
python\taiohttp\t3.8.4\t/usr/lib/python3/dist-packages
python\taiohttp\t3.8.4\t/usr/lib/python3/dist-packages
file\tAAAA  /opt/omegaup/frontend/www/index.php
file\t\\BBBB  /opt/omegaup/odd\\nname
end""".replace("AAAA", "a" * 64).replace("BBBB", "b" * 64)


def test_what_a_host_says() -> None:
    found = parse("data1", SAID.splitlines())
    assert (found.os, found.release) == ("debian", "12")
    assert {one.name: one.origin for one in found.packages} == {
        "redis-server": "Debian-Security", "libc6": "Debian", "local-tool": UNKNOWN
    }  # fmt: skip
    assert found.packages[1].source == "glibc"
    assert found.python == (("aiohttp", "3.8.4", "/usr/lib/python3/dist-packages"),)
    assert found.files["/opt/omegaup/frontend/www/index.php"] == "a" * 64
    assert "b" * 64 in found.files.values()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_an_answer_that_breaks_off_is_no_bill(cut: int) -> None:
    with pytest.raises(FleetError, match="breaks off"):
        parse("data1", SAID.splitlines()[:-cut])


def test_the_document() -> None:
    content = parse("data1", SAID.splitlines())
    document = json.loads(rendered(bom("lab", {"data1": content, "data2": content}, "c0ffee")))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["version"] == "c0ffee"
    assert [one["name"] for one in document["components"]] == ["data1", "data2"]
    inside = {one["name"]: one for one in document["components"][0]["components"]}
    purl = PackageURL.from_string(inside["libc6"]["purl"])
    assert (purl.type, purl.namespace, purl.name, purl.version) == ("deb", "debian", "libc6", "2.36-9")
    assert purl.qualifiers == {"arch": "amd64", "distro": "debian-12", "upstream": "glibc@2.36-9"}
    assert inside["redis-server"]["properties"] == [{"name": "fleet:origin", "value": "Debian-Security"}]
    assert inside["/opt/omegaup/frontend/www/index.php"]["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    references = [one["bom-ref"] for host in document["components"] for one in host["components"]]
    assert len(references) == len(set(references))


NAME = st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,12}", fullmatch=True)
VERSION = st.from_regex(r"([0-9]:)?[0-9][A-Za-z0-9.+~-]{0,12}", fullmatch=True)
PACKAGE = st.builds(
    Package, name=NAME, version=VERSION, architecture=st.sampled_from(["amd64", "all"]), source=NAME,
    source_version=VERSION, origin=st.text(max_size=10),
)  # fmt: skip


FILES = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1), st.from_regex("[0-9a-f]{64}", fullmatch=True), max_size=3
)


@settings(max_examples=40)
@given(
    packages=st.lists(PACKAGE, max_size=4, unique_by=lambda one: (one.name, one.architecture)),
    files=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1), st.from_regex("[0-9a-f]{64}", fullmatch=True), max_size=3
    ),
)
def test_its_own_reader_takes_it_back(packages: list[Package], files: dict[str, str]) -> None:
    content = Content("debian", "12", tuple(packages), (), files)
    text = rendered(bom("lab", {"data1": content}, "c0ffee"))
    back = Bom.from_json(json.loads(text))  # type: ignore[attr-defined]
    (host,) = back.components
    assert len(host.components) == len(packages) + len(files)
    assert {one.purl.version for one in host.components if one.purl} == {one.version for one in packages}


@pytest.mark.skipif(not all(map(shutil.which, ("dpkg-query", "apt-cache"))), reason="this is no Debian")
def test_this_machines_own_answer() -> None:
    """The shell, run as on a host: every installed package is there, most with an origin."""
    done = subprocess.run(["sh", "-s"], input=SCRIPT, text=True, capture_output=True, check=True, timeout=120)
    found = parse("here", done.stdout.splitlines())
    assert {"dpkg", "apt"} <= {one.name for one in found.packages}
    assert "://" not in "".join(one.origin for one in found.packages)
