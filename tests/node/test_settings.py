"""Settings: typed, validated at start, the line at fault named, secrets masked."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import Misconfigured
from node.settings import Settings, load

WHOLE = """
[node]
ae_titles = ["OVERREAD", "OVERREAD_STAT"]
port = 11113
data_dir = "data"

[[peers]]
name = "archive"
ae_title = "PACS"
host = "10.0.0.5"
port = 104
storage_commitment = true

[[rules]]
model = "chest-ct"
called_ae = ["OVERREAD_STAT"]
priority = "stat"
destinations = ["archive"]
"""

SECOND_PEER = WHOLE + "\n[[peers]]\nname = 'second'\nae_title = 'TOO LONG AN AE TITLE'\nhost = 'h'\nport = 1\n"


def write(tmp_path: Path, text: str) -> Path:
    """Write a settings file."""
    path = tmp_path / "overread.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_no_file() -> None:
    """Without a file the node listens on loopback only and knows no peer."""
    settings = load(environ={})
    assert settings.node.host == "127.0.0.1"
    assert settings.destinations() == ()


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    """Every section becomes its typed noun, and the data folder is absolute."""
    settings = load(write(tmp_path, WHOLE), environ={})
    assert settings.node.ae_titles == ("OVERREAD", "OVERREAD_STAT")
    assert settings.peer("archive").storage_commitment is True
    assert settings.rules[0].priority == "stat"
    assert settings.data_dir.is_absolute()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[node]\nhost = '0.0.0.0'\nport = 70000\n", "overread.toml:3: node.port"),
        ("[node]\nprot = 104\n", "overread.toml:2: node.prot"),
        (
            WHOLE + "\n[[peers]]\nname = 'second'\nae_title = 'TOO LONG AN AE TITLE'\nhost = 'h'\nport = 1\n",
            "overread.toml:22: peers.1.ae_title: Value error, an AE title",
        ),
        (WHOLE.replace("port = 104", "port = 104\ncalling_ae = 'OTHER'"), "not among [node] ae_titles"),
        ("[[rules]]\nmodel = 'x'\ndestinations = ['nowhere']\n", "nowhere"),
        ("[node\n", "not valid TOML"),
    ],
)
def test_the_line_at_fault_is_named(tmp_path: Path, text: str, expected: str) -> None:
    """A wrong value is refused with file, line and key."""
    with pytest.raises(Misconfigured) as caught:
        load(write(tmp_path, text), environ={})
    assert expected in caught.value.reason


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(Misconfigured, match="cannot read the settings file"):
        load(tmp_path / "absent.toml", environ={})


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """OVERREAD_SECTION__KEY overrides one value; JSON gives lists."""
    environ = {"OVERREAD_NODE__PORT": "0", "OVERREAD_NODE__AE_TITLES": '["A","B"]', "OVERREAD_ASSEMBLY__QUIET_S": "2.5"}
    settings = load(write(tmp_path, WHOLE), environ=environ)
    assert settings.node.port == 0
    assert settings.node.ae_titles == ("A", "B")
    assert settings.assembly.quiet_s == 2.5


def test_a_wrong_environment_value_is_named() -> None:
    """The error names the variable, not a file."""
    with pytest.raises(Misconfigured, match="OVERREAD_NODE__PORT"):
        load(environ={"OVERREAD_NODE__PORT": "many"})


def test_secrets_do_not_show() -> None:
    """A broker's or a ledger's password is in no repr."""
    settings = load(environ={"OVERREAD_BROKER__URL": "redis://:hunter2@h/0", "OVERREAD_LEDGER__URL": "postgresql+psycopg://u:hunter2@h/d"})
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.model_dump())
    assert settings.broker.url.get_secret_value().endswith("h/0")


def test_half_a_tls_pair_is_refused() -> None:
    """A certificate without its key cannot serve."""
    with pytest.raises(Misconfigured, match="tls_certificate and tls_key"):
        load(environ={"OVERREAD_NODE__TLS_CERTIFICATE": "cert.pem"})


def test_settings_do_not_change() -> None:
    """Settings are frozen once read."""
    with pytest.raises(Exception, match="frozen"):
        Settings().node.port = 5  # type: ignore[misc]


def test_a_rule_s_condition_is_read_at_start(tmp_path: Path) -> None:
    """A condition that cannot be read names the line and what is wrong with it; a good one stays as text."""
    path = tmp_path / "overread.toml"
    path.write_text('[[rules]]\nmodel = "*"\n\n[[rules]]\nmodel = "*"\nwhen = "SliceThickness < thin"\n', encoding="utf-8")
    with pytest.raises(Misconfigured, match=r"overread\.toml:6: rules\.1\.when: .*needs one number"):
        load(path, {})
    path.write_text('[[rules]]\nmodel = "*"\nwhen = " called_ae is \'AI\' "\n', encoding="utf-8")
    assert load(path, {}).rules[0].when == "called_ae is 'AI'"
