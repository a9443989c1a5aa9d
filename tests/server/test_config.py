"""Settings: defaults, paths, and every wrong value refused by name."""

from pathlib import Path

import pytest

from firmware.errors import RefusedError
from server.config import Address, CheckSettings, load_settings, merged, parse_address, validated
from server.config_artifacts import ArtifactSettings
from server.config_limits import LimitSettings


def _load(tmp_path: Path, text: str):
    file = tmp_path / "otaria.toml"
    file.write_text(text)
    return load_settings(file)


def test_an_empty_file_means_the_defaults_beside_it(tmp_path: Path) -> None:
    settings = _load(tmp_path, "")
    assert settings.state == tmp_path / "state"
    assert settings.repository == tmp_path / "repository"
    assert (settings.http.people, settings.http.devices) == (
        Address(host="127.0.0.1", port=8080),
        Address(host="127.0.0.1", port=8443),
    )
    assert (settings.broker.kind, settings.storage_url) == ("auto", None)


def test_what_the_file_says_goes_over_the_defaults(tmp_path: Path) -> None:
    settings = _load(
        tmp_path,
        '[server]\nstate = "/var/lib/otaria"\n[http]\npeople = "[::1]:0"\nnames = ["ota.example"]\n'
        '[broker]\nkind = "external"\nagents_host = "mq"\nagents_port = 8883\nservices_host = "mq"\nservices_port = 8884\n',
    )
    assert settings.state == Path("/var/lib/otaria")
    assert settings.http.people == Address(host="::1", port=0)
    assert settings.http.names == ("ota.example",)
    assert settings.broker.agents_host == "mq"


def test_limits_and_proxies_are_settings(tmp_path: Path) -> None:
    settings = _load(
        tmp_path,
        '[http]\ntrusted_proxies = ["127.0.0.1/32", "fd00::/8"]\nforwarded_header = "Forwarded"\n'
        "[limits]\naddress_per_s = 5\nstreams = 0\n",
    )
    assert [str(network) for network in settings.http.trusted_proxies] == ["127.0.0.1/32", "fd00::/8"]
    assert (settings.limits.address_per_s, settings.limits.streams) == (5.0, 0)
    assert settings.limits.token_per_s == LimitSettings().token_per_s


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[serve]\n", "serve"),
        ("[http]\npeoples = 1\n", "peoples"),
        ("[http]\npeople = 8080\n", "people"),
        ('[http]\npeople = "8080"\n', "http.people"),
        ('[http]\npeople = "127.0.0.1:99999"\n', "http.people"),
        ('[http]\npeople = "::1:80"\n', "brackets"),
        ('[http]\npeople = "0.0.0.0:8080"\n', "people_certificate"),
        ('[http]\npeople = "ota.example:8080"\n', "people_certificate"),
        ('[http]\npeople_key = "k"\n', "people_certificate"),
        ('[http]\ndevices = "0.0.0.0:1"\n', "devices_url"),
        ('[http]\ndevices_url = "http://x"\n', "devices_url"),
        ('[http]\ndevices_url = "https://x/path"\n', "devices_url"),
        ("[http]\nmax_artifact_bytes = 0\n", "max_artifact_bytes"),
        ('[http]\ntrusted_proxies = ["10.0.0.1/8"]\n', "http.trusted_proxies"),
        ('[http]\ntrusted_proxies = "10.0.0.0/8"\n', "trusted_proxies"),
        ('[http]\nforwarded_header = "X-Real-IP"\n', "forwarded_header"),
        ("[limits]\naddress_per_s = 0\n", "limits.address_per_s"),
        ("[limits]\ntoken_per_s = inf\n", "limits.token_per_s"),
        ("[limits]\nbody_s = nan\n", "limits.body_s"),
        ("[limits]\nstreams = 1.5\n", "limits.streams"),
        ("[limits]\nstreams = true\n", "limits.streams"),
        ('[limits]\njson_bytes = "1 MiB"\n', "limits.json_bytes"),
        ("[limits]\njson_bytes = 1\n", "limits.json_bytes"),
        ("[http]\nnames = [1]\n", "names"),
        ('[broker]\nkind = "rabbit"\n', "kind"),
        ('[broker]\nkind = "external"\n', "agents_host"),
        ('[broker]\nservices_host = "x"\n', "services_host"),
        ("[broker]\nagents_port = 70000\n", "agents_port"),
        ("[server]\nstate = 3\n", "server.state"),
        ('[server]\nstate = ""\n', "server.state"),
        ("[storage]\nurl = 3\n", "storage.url"),
        ("server = 3\n", "[server]"),
        ("not toml", "otaria.toml"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, names: str) -> None:
    with pytest.raises(RefusedError) as caught:
        _load(tmp_path, text)
    assert caught.value.kind == "config"
    assert names in caught.value.text


def test_a_misspelt_setting_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="did you mean `devices`"):
        _load(tmp_path, '[http]\ndevice = "x"\n')


def test_files_that_cannot_be_read_are_typed_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(RefusedError):
            load_settings(path)
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(RefusedError):
        load_settings(tmp_path / "latin.toml")


def test_a_listener_that_others_reach_is_fine_with_tls(tmp_path: Path) -> None:
    settings = _load(tmp_path, '[http]\npeople = "0.0.0.0:8080"\npeople_certificate = "c.pem"\npeople_key = "k.pem"\n')
    assert settings.http.people_certificate == tmp_path / "c.pem"


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("127.1.2.3:1", True),
        ("10.0.0.1:1", False),
        ("host:1", False),
    ],
)
def test_what_counts_as_loopback(text: str, loopback: bool) -> None:
    assert parse_address(text, "x").is_loopback is loopback


def checks_of(**given: object) -> object:
    section = {"checks": {"urls": {"backup": "https://backup.example.org/ask"}, "secret_file": "secret", **given}}
    return validated(merged(section), base=Path("/srv")).checks


def test_checks_are_addresses_by_name_with_a_secret() -> None:
    assert checks_of(timeout_s=5) == CheckSettings(
        urls={"backup": "https://backup.example.org/ask"}, secret_file=Path("/srv/secret"), timeout_s=5
    )
    assert validated(merged({}), base=Path("/srv")).checks == CheckSettings(urls={}, secret_file=None, timeout_s=10)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"urls": {"backup": "ftp://backup.example.org"}}, "checks.urls"),
        ({"urls": {"backup": "https://user:word@backup.example.org"}}, "checks.urls"),
        ({"urls": {"Back Up": "https://backup.example.org"}}, "checks.urls"),
        ({"secret_file": None}, "checks.secret_file"),
        ({"timeout_s": 0}, "checks.timeout_s"),
        ({"timeout_s": 61}, "checks.timeout_s"),
    ],
)
def test_checks_that_make_no_sense_are_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        checks_of(**given)


def test_a_bucket_and_its_keys_are_settings(tmp_path: Path) -> None:
    settings = _load(
        tmp_path,
        '[artifacts]\nstore = "s3"\nendpoint = "https://s3.example.org"\nbucket = "otaria"\nregion = "eu-central-1"\n'
        'prefix = "a/b/"\ncredentials_file = "s3.keys"\nca_file = "/etc/ca.pem"\nprofile = "fleet"\ntimeout_s = 3\n',
    )
    wanted = settings.artifacts
    assert (wanted.store, wanted.bucket, wanted.prefix, wanted.timeout_s) == ("s3", "otaria", "a/b/", 3.0)
    assert (wanted.credentials_file, wanted.ca_file) == (tmp_path / "s3.keys", Path("/etc/ca.pem"))
    assert _load(tmp_path, "").artifacts == ArtifactSettings()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('store = "ftp"', "artifacts"),
        ('store = "s3"', "artifacts.bucket"),
        ('bucket = "../x"', "artifacts.bucket"),
        ('bucket = "A"', "artifacts.bucket"),
        ('endpoint = "https://key:secret@s3.example.org"', "artifacts.endpoint"),
        ('endpoint = "https://s3.example.org/path?x=1"', "artifacts.endpoint"),
        ('endpoint = "ftp://s3.example.org"', "artifacts.endpoint"),
        ('prefix = "firmware"', "artifacts.prefix"),
        ('prefix = "/firmware/"', "artifacts.prefix"),
        ('prefix = "a b/"', "artifacts.prefix"),
        ('region = "EU central"', "artifacts.region"),
        ("timeout_s = 0", "artifacts.timeout_s"),
        ("timeout_s = nan", "artifacts.timeout_s"),
        ("connections = 0", "artifacts.connections"),
        ("downloads = 1.5", "artifacts"),
        ("spool_bytes = 1", "artifacts.spool_bytes"),
        ('aws_secret_access_key = "x"', "aws_secret_access_key"),
    ],
)
def test_a_bucket_that_makes_no_sense_is_refused(tmp_path: Path, text: str, names: str) -> None:
    with pytest.raises(RefusedError) as refused:
        _load(tmp_path, f"[artifacts]\n{text}\n")
    assert (refused.value.kind, f"`{names}`" in refused.value.text) == ("config", True)
    assert "secret@" not in refused.value.text
